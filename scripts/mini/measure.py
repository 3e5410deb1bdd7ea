"""How well the base and the method on it do, counted by the judge.

python measure.py base [N=240] [GUIDANCE=5]   the fullest captions of held-out scenes: painted with 25 steps, judged
python measure.py method BASE OUT WORD:SEED ...   held-out subjects, customised with eqdiff, 20 prompts each, which say no
    more than `S* word` about the thing; eqdiff is called by name, and what is in OUT already is not made again
"""
import os
import subprocess
import sys

import numpy as np
import torch
from PIL import Image

import judge
import make_subjects
import train_text
import train_unet
import train_vae
import world
from common import HELD, SCRATCH, items, load_averaged, to_tensor
from train_text import Words

PROMPTS = [  # 12 places, 8 styles, of which half in a place
    *(world.phrase(None, "{}", p, first=True) for p in ("beach", "snow", "wooden_floor", "space", "mountains", "forest", "city", "meadow", "brick_wall", "plain_yellow", "night", "desert")),
    *(world.phrase(None, "{}", None, s, first=True) for s in ("van_gogh", "oil", "watercolor", "pixel_art")),
    *(world.phrase(None, "{}", p, s, first=True) for p, s in (("beach", "van_gogh"), ("city", "pop_art"), ("snow", "sketch"), ("meadow", "neon"))),
]


@torch.no_grad()
def base(n=240, guidance=5.0):
    n, rows = int(n), items()
    painter, text, vae = load_averaged(train_unet.Painter(), "unet"), train_text.load(), train_vae.load()
    first = len(rows) - HELD
    ids = Words()([r["captions"][3] for r in rows[first : first + n]])
    made = torch.cat([train_unet.paint(painter, text, vae, part, guidance=guidance, seed=i) for i, part in enumerate(ids.split(16))])
    values = {k: v[first : first + n] for k, v in judge.labels(rows)[1].items()}
    print("painted", judge.right(judge.trained()[0], made, values), flush=True)
    train_unet.sheet(made[:40], os.path.join(SCRATCH, "samples", "base.png"))


def wanted(names, labels):
    """Indices of the true labels of pictures, as judge.everything has them."""
    values = {}
    for k, options in names.items():
        word, _, key = k.partition(" ")
        truth = [r[k] if k in judge.NAMES else r["shape"][key] if r["word"] == word else None for r in labels]
        known = [not (k in ("main", "second") and r["style"] in ("sketch", "sepia")) for r in labels]
        values[k] = torch.tensor([options.index(t) if t in options and ok else -1 for t, ok in zip(truth, known)])
    return values


def read(folder):
    """-> (pictures, the prompts that eqdiff wrote into them)"""
    opened = [Image.open(os.path.join(folder, f)) for f in sorted(os.listdir(folder)) if f.endswith(".png") and f != "contact-sheet.png"]
    return to_tensor(np.stack([np.array(o.convert("RGB")) for o in opened])), [o.text["parameters"].split("\n")[0] for o in opened]


def customised(subject, word, base, out):
    """Train on a subject and draw the prompts with and without the adapter, unless that is done."""
    run = lambda *what: subprocess.run(["eqdiff", *what], check=True, stdout=subprocess.DEVNULL, env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"})
    prompts, plain = os.path.join(out, "prompts.txt"), os.path.join(out, "plain.txt")
    for path, name in ((prompts, "{}"), (plain, word)):
        with open(path, "w") as f:
            f.write("\n".join(p.replace("{}", name) for p in PROMPTS))
    if not os.path.exists(f"{out}/with"):
        run("train", "--base", base, "--subject", subject, "--class", word, "--out", f"{out}/adapter")
        run("sample", "--adapter", f"{out}/adapter", "--prompts", prompts, "--out", f"{out}/with")
    if not os.path.exists(f"{out}/without"):
        run("sample", "--no-adapter", "--base", base, "--prompts", plain, "--out", f"{out}/without")


def method(folder, out, *chosen):
    model, names = judge.trained()
    total = {"with": ([], []), "without": ([], [])}
    for word, seed in (c.split(":") for c in chosen):
        at = os.path.join(out, f"{word}-{seed}")
        one = make_subjects.write(os.path.join(at, "subject"), word, int(seed))
        customised(os.path.join(at, "subject"), word, folder, at)
        for name, (pictures, labels) in total.items():
            drawn, prompts = read(f"{at}/{name}")
            asked = [world.parse(p, "S*") for p in prompts]
            truth = [{**one.labels(), "style": a["style"] or "photo", "background": a["background"]} for a in asked]
            print(word, seed, name, judge.right(model, drawn, wanted(names, truth)), flush=True)
            pictures.append(drawn)
            labels.extend(truth)
    for name, (pictures, labels) in total.items():
        styled = torch.tensor([r["style"] != "photo" for r in labels])
        pictures, values = torch.cat(pictures), wanted(names, labels)
        print(name, "photos", judge.right(model, pictures[~styled], {k: v[~styled] for k, v in values.items()}))
        print(name, "styled", judge.right(model, pictures[styled], {k: v[styled] for k, v in values.items()}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"base": lambda n=240, g=5: base(n, float(g)), "method": method}[sys.argv[1]](*sys.argv[2:])
