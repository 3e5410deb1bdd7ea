"""An independent judge: which word, background and style does a picture show?

python judge.py train [MINUTES=10]       draws its own composites, trains, reports accuracy on held-out real ones
python judge.py prompts FILE [N=200]     writes N prompts, one a line
python judge.py score FOLDER FILE        judges FOLDER's PNGs, in the order of the number that ends their names, against
                                         FILE's prompts (several pictures a prompt, one after another, are fine)

It is a small convolutional classifier that never takes part in training the base. Kept in SCRATCH/judge.pt.
"""
import glob
import os
import re
import sys
import time

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import scenes
import sprites
from common import PAUSE, SCRATCH

SIDE, FIRST_SEED = 128, 10_000_000  # seeds that make_data.py does not reach
PATH = os.path.join(SCRATCH, "judge.pt")
NAMES = {"word": list(sprites.CLASSES), "background": list(scenes.BACKGROUNDS), "style": ["photo", *scenes.STYLES]}
STYLE_WORDS = {
    "oil": "oil painting", "van_gogh": "van gogh", "watercolor": "watercolor", "sketch": "sketch|pencil drawing", "pointillism": "pointillism",
    "mosaic": "mosaic", "cubist": "cubis[tm]", "pixel_art": "pixel art", "monet": "monet", "bw": "black and white",
}


class Judge(torch.nn.Module):
    def __init__(self):
        super().__init__()
        conv = lambda a, b, *shape: [torch.nn.Conv2d(a, b, *shape), torch.nn.BatchNorm2d(b), torch.nn.SiLU()]
        block = lambda a, b: conv(a, b, 3, 2, 1) + conv(b, b, 3, 1, 1)
        self.body = torch.nn.Sequential(*conv(3, 48, 7, 4, 3), *block(48, 96), *block(96, 160), *block(160, 224))
        self.heads = torch.nn.ModuleDict({k: torch.nn.Linear(2 * 224, len(v)) for k, v in NAMES.items()})

    def forward(self, x):
        h = self.body(x)
        h = torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)
        return {k: head(h) for k, head in self.heads.items()}


def to_input(pictures):
    """uint8 NHWC of SIDE pixels -> NCHW in -1..1"""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def labels_of(rows):
    return {k: torch.tensor([v.index(r[k]) for r in rows]) for k, v in NAMES.items()}


def real(count, seed, pool=None):
    pool = pool or scenes.training_pool()
    pictures, rows = np.empty((count, SIDE, SIDE, 3), np.uint8), []
    for i in range(count):
        row = scenes.draw(seed + i, pool)
        pictures[i] = row["image"]
        rows.append({k: row[k] for k in NAMES})
    return pictures, labels_of(rows)


def cached(count, held):
    """-> training set, held-out set, set of the held-out instances; drawn once."""
    sets = {"train": (count, FIRST_SEED), "held": (held, 2 * FIRST_SEED), "unseen": (500, 3 * FIRST_SEED, held_out_pool())}
    out = []
    for name, what in sets.items():
        path = os.path.join(SCRATCH, f"judge-{name}.npz")
        if not os.path.exists(path):
            pictures, labels = real(*what)
            np.savez(path, pictures=pictures, **{k: v.numpy() for k, v in labels.items()})
        z = np.load(path)
        out.append((z["pictures"], {k: torch.from_numpy(z[k]) for k in NAMES}))
    return out


def held_out_pool():
    """{word: the evaluation subjects' sprites}, for a second, harder check of the words."""
    keys, words, pixels = sprites.load()
    pool = {}
    for key, word, p in zip(keys, words, pixels):
        if sprites.is_held_out(key):
            pool.setdefault(word, []).append(p)
    return pool


def augment(x, rng):
    """Shifts, flips and the softness of generated pictures, so that blur alone does not fool the judge."""
    dx, dy = rng.integers(-6, 7, 2)
    x = F.pad(x, (6, 6, 6, 6), mode="reflect")[..., 6 + dy : 6 + dy + SIDE, 6 + dx : 6 + dx + SIDE]
    if rng.random() < 0.5:
        x = x.flip(-1)
    soft = rng.random()
    if soft < 0.4:
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    elif soft < 0.55:
        x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    return x * torch.empty(len(x), 3, 1, 1).uniform_(0.9, 1.1) + 0.04 * torch.randn_like(x)


@torch.no_grad()
def guess(judge, pictures):
    judge.eval()
    parts = [judge(to_input(pictures[i : i + 128])) for i in range(0, len(pictures), 128)]
    return {k: torch.cat([p[k] for p in parts]).argmax(1) for k in NAMES}


def accuracy(judge, pictures, labels):
    got = guess(judge, pictures)
    return {k: (got[k] == labels[k]).float().mean().item() for k in NAMES}


def train(minutes, count=16000, held=1500):
    (data, labels), check, unseen = cached(count, held)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    judge = load() if os.path.exists(PATH) else Judge()
    opt = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=0.05)
    step, spent, last = 0, 0.0, time.time()
    while (done := spent / (60 * minutes)) < 1:
        judge.train()
        for group in opt.param_groups:
            group["lr"] = 3e-3 * (1 - done) + 1e-5
        pick = rng.integers(0, len(data), 64)
        out = judge(augment(to_input(data[pick]), rng))
        loss = sum(F.cross_entropy(out[k], labels[k][pick], label_smoothing=0.05) for k in NAMES)
        opt.zero_grad()
        loss.backward()
        opt.step()
        step += 1
        now = time.time()
        spent, last = spent + min(now - last, PAUSE), now
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f}", {k: round(v, 3) for k, v in accuracy(judge, *check).items()}, flush=True)
            torch.save(judge.state_dict(), PATH)
    torch.save(judge.state_dict(), PATH)
    photo = check[1]["style"] == 0
    print("held-out real composites:", accuracy(judge, *check))
    print("  of them unstyled:", accuracy(judge, check[0][photo.numpy()], {k: v[photo] for k, v in check[1].items()}))
    print("composites of the held-out instances:", accuracy(judge, *unseen))


def load():
    judge = Judge()
    judge.load_state_dict(torch.load(PATH))
    return judge


def read_prompt(prompt):
    """The labels that a prompt names; a missing background or style is left out ("photo" if no style)."""
    text = prompt.lower()
    said = {"style": next((s for s, words in STYLE_WORDS.items() if re.search(words, text)), "photo")}
    for word in sorted(NAMES["word"], key=len, reverse=True):
        if re.search(rf"\b{word}\b", text):
            said["word"] = word
            break
    phrases = [(p, b) for b, (_, all_phrases, _) in scenes.BACKGROUNDS.items() for p in all_phrases]
    for phrase, background in sorted(phrases, key=lambda v: -len(v[0])):
        if phrase in text:
            said["background"] = background
            break
    return said


def write_prompts(path, n, seed=1):
    """Every word in turn; half with a style; three of four name a background."""
    rng = np.random.default_rng(seed)
    styles, places = list(scenes.STYLES), list(scenes.BACKGROUNDS)
    with open(path, "w") as f:
        for i in range(n):
            style = styles[i // 2 % len(styles)] if (i + i // len(NAMES["word"])) % 2 else None
            place = str(rng.choice(places)) if rng.random() < (0.5 if style else 1.0) else None
            f.write(scenes.caption(rng, NAMES["word"][i % len(NAMES["word"])], place, style) + "\n")


def score(pictures, prompts, judge=None):
    """-> {"word": share recognised, ...} over the labels that the prompts name, and the confusions of the words."""
    said = [read_prompt(p) for p in prompts]
    got = guess(judge or load(), np.stack([cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in pictures]))
    right, wrong = {k: [] for k in NAMES}, []
    for i, labels in enumerate(said):
        for k, label in labels.items():
            saw = NAMES[k][got[k][i]]
            right[k].append(saw == label)
            if k == "word" and saw != label:
                wrong.append(f"{label}>{saw}")
    return {k: float(np.mean(v)) for k, v in right.items() if v}, wrong


def main(verb, *rest):
    if verb == "train":
        train(float(rest[0]) if rest else 10)
    elif verb == "prompts":
        write_prompts(rest[0], int(rest[1]) if len(rest) > 1 else 200)
    else:
        with open(rest[1]) as f:
            prompts = [line.strip() for line in f if line.strip()]
        numbers = {f: re.search(r"(\d+)\.png$", f) for f in glob.glob(os.path.join(rest[0], "*.png"))}
        files = sorted((f for f, n in numbers.items() if n), key=lambda f: int(numbers[f][1]))
        assert files and len(files) % len(prompts) == 0, f"{len(files)} pictures for {len(prompts)} prompts"
        each = len(files) // len(prompts)
        result, wrong = score([np.asarray(Image.open(f).convert("RGB")) for f in files], [p for p in prompts for _ in range(each)])
        print({k: round(v, 3) for k, v in result.items()})
        print("words taken for others:", " ".join(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
