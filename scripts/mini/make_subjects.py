"""Write held-out subjects in the layout of assets/subjects: photos, exact masks, what they are, and what the first
built-in prompts should give of them.

python make_subjects.py FOLDER WORD:SEED ...     FOLDER/WORD (or FOLDER/WORD-SEED where a word comes twice)
"""
import json
import os
import re
import sys

import numpy as np
from PIL import Image

import world
from common import HERE
from things import LIVE

TRUTHS = 8  # of each list of prompts: those of eqdiff's demo


def save(pixels, path):
    Image.fromarray(pixels).save(path, optimize=True)


def builtin(word):
    """The first prompts of eqdiff's own lists, about a S* WORD."""
    for name in ("live" if word in LIVE else "object", "style"):
        with open(os.path.join(HERE, "..", "..", "assets", "prompts", name + ".txt")) as f:
            lines = [line.strip() for line in f if line.strip() and not line.startswith("#")]
        yield from (line.replace("{}", f"S* {word}") for line in lines[:TRUTHS])


def write(folder, word, seed, shots=5):
    one = world.subject(seed, word)
    for part in ("masks", "truth"):
        os.makedirs(os.path.join(folder, part), exist_ok=True)
    for i, scene in enumerate(world.photos(one, shots)):
        save(scene.image, os.path.join(folder, f"photo_{i}.png"))
        save((scene.mask * 255 + 0.5).astype(np.uint8), os.path.join(folder, "masks", f"photo_{i}.png"))
    for prompt in builtin(word):  # named as eqdiff names pictures of the prompt
        name = "-".join(re.findall(r"[^\W_]+", prompt.lower()))
        save(world.truth(one, prompt, name="S*").image, os.path.join(folder, "truth", name + ".png"))
    with open(os.path.join(folder, "subject.json"), "w") as f:
        json.dump({"name": word, "class": word, "looks": {k: v for k, v in one.labels().items() if k != "shape"}}, f)
    return one


if __name__ == "__main__":
    folder, chosen = sys.argv[1], [c.split(":") for c in sys.argv[2:]]
    words = [w for w, _ in chosen]
    for word, seed in chosen:
        one = write(os.path.join(folder, word if words.count(word) == 1 else f"{word}-{seed}"), word, int(seed))
        print(word, seed, one.main, one.second, one.accent, one.pattern, one.shape)
