"""Write held-out subjects in the layout of assets/subjects: photos, exact masks, and what they are.

python make_subjects.py FOLDER WORD:SEED ...     FOLDER/WORD (or FOLDER/WORD-SEED where a word comes twice)
"""
import json
import os
import sys

import numpy as np
from PIL import Image

import world


def save(pixels, path):
    Image.fromarray(pixels).save(path, optimize=True)


def write(folder, word, seed, shots=5):
    one = world.subject(seed, word)
    os.makedirs(os.path.join(folder, "masks"), exist_ok=True)
    for i, scene in enumerate(world.photos(one, shots)):
        save(scene.image, os.path.join(folder, f"photo_{i}.png"))
        save((scene.mask * 255 + 0.5).astype(np.uint8), os.path.join(folder, "masks", f"photo_{i}.png"))
    with open(os.path.join(folder, "subject.json"), "w") as f:
        json.dump({"name": word, "class": word}, f)
    return one


if __name__ == "__main__":
    folder, chosen = sys.argv[1], [c.split(":") for c in sys.argv[2:]]
    words = [w for w, _ in chosen]
    for word, seed in chosen:
        one = write(os.path.join(folder, word if words.count(word) == 1 else f"{word}-{seed}"), word, int(seed))
        print(word, seed, one.main, one.second, one.accent, one.pattern, one.shape)
