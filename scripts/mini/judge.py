"""A classifier of word, colours, pattern, shape, place and style: the judge of pictures, and the base's teacher.

python judge.py train MINUTES [NAME=judge]   its accuracy on held-out pictures, for each label; resumes
python judge.py score [NAME=judge]           real pictures and the same through the autoencoder

The teacher is another network of this kind (NAME teacher): what is judged must not have learnt from its judge.
"""
import sys

import numpy as np
import torch
import torch.nn.functional as F

from common import HELD, Run, autocast, checkpoint, images, items, to_tensor

NAMES = ("word", "main", "second", "pattern", "background", "style")
WIDTHS = (24, 48, 96, 160, 192)


class Block(torch.nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.down, self.n1, self.n2 = torch.nn.Conv2d(i, o, 3, 2, 1), torch.nn.BatchNorm2d(o), torch.nn.BatchNorm2d(o)
        self.conv = torch.nn.Conv2d(o, o, 3, 1, 1)

    def forward(self, x):
        x = F.relu(self.n1(self.down(x)))
        return F.relu(x + self.n2(self.conv(x)))


class Judge(torch.nn.Module):
    """128 x 128 pixels in -1..1 -> a dictionary of logits; `features` are its five maps, 64 to 4 pixels wide."""

    def __init__(self, sizes):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block(i, o) for i, o in zip((3,) + WIDTHS, WIDTHS))
        self.heads = torch.nn.ModuleDict({k: torch.nn.Linear(2 * WIDTHS[-1], n) for k, n in sizes.items()})

    def features(self, x, depth=5):
        maps = []
        for block in self.blocks[:depth]:
            x = block(x)
            maps.append(x)
        return maps

    def forward(self, x):
        h = self.features(x)[-1].float()
        h = torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)
        return {k: head(h) for k, head in self.heads.items()}


def labels(rows):
    """-> ({label: sorted names}, {label: tensor of indices}); -1 is unknown: colours of colourless pictures, and the
    places of pictures that show little of them."""
    names = {k: sorted({r[k] for r in rows}) for k in NAMES}
    values = {k: torch.tensor([names[k].index(r[k]) for r in rows]) for k in NAMES}
    colorless = torch.tensor([r["style"] in ("sketch", "sepia") for r in rows])
    for k in ("main", "second"):
        values[k][colorless] = -1
    values["background"][torch.tensor([r["framing"] == "close" for r in rows])] = -1
    return names, values


def variants(rows):
    """The same of the shapes: a label for each variant of each word ("dog ears"), unknown for other words."""
    known = sorted({(r["word"], k, v) for r in rows for k, v in r["shape"].items() if isinstance(v, str)})
    names = {}
    for word, key, value in known:
        names.setdefault(f"{word} {key}", []).append(value)
    values = {}
    for label, options in names.items():
        word, key = label.split(" ", 1)
        values[label] = torch.tensor([options.index(r["shape"][key]) if r["word"] == word else -1 for r in rows])
    return names, values


def everything(rows):
    return tuple(a | b for a, b in zip(labels(rows), variants(rows)))


def trained(name="judge"):
    """-> (network, {label: names})"""
    state = torch.load(checkpoint(name), map_location="cpu")
    model = Judge({k: len(v) for k, v in state["names"].items()})
    model.load_state_dict(state["module"])
    return model.eval().requires_grad_(False), state["names"]


def teacher():
    """The maps of the teacher."""
    model = Judge({})
    state = torch.load(checkpoint("teacher"), map_location="cpu")["module"]
    model.load_state_dict({k: v for k, v in state.items() if k.startswith("blocks.")})
    return model.eval().requires_grad_(False)


@torch.no_grad()
def right(model, pictures, wanted):
    """-> {label: share of the pictures that it names right}; all variants of shape count as one label."""
    with autocast():
        parts = [model(p) for p in pictures.split(64)]
    hits = {}
    for k, v in wanted.items():
        hit = (torch.cat([p[k] for p in parts]).argmax(1) == v)[v >= 0]
        hits.setdefault(k if k in NAMES else "shape", []).append(hit.float())
    return {k: round(torch.cat(v).mean().item(), 3) for k, v in hits.items()}


def augmented(x):
    """Shifted, at times softened, with some noise and another light."""
    dx, dy = torch.randint(-5, 6, (2,)).tolist()
    x = F.pad(x, (5, 5, 5, 5), mode="reflect")[..., 5 + dy : 133 + dy, 5 + dx : 133 + dx]
    if torch.rand(()) < 0.4:
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return x * torch.empty(len(x), 3, 1, 1).uniform_(0.95, 1.05) + 0.05 * torch.randn_like(x) * torch.rand(len(x), 1, 1, 1)


def train(minutes, name="judge", batch=48):
    data, rows, rng = images(), items(), np.random.default_rng()
    names, values = everything(rows)
    model = Judge({k: len(v) for k, v in names.items()})
    run = Run(name, model, minutes, 2e-3, decay=0.02, every=120, muon=True, kept={"names": names})
    held, wanted = to_tensor(data[-HELD:]), {k: v[-HELD:] for k, v in values.items()}

    def check():
        run.say("held out " + str(right(model.eval(), held, wanted)))
        model.train()

    while run.running():
        pick = rng.integers(0, len(data) - HELD, batch)
        x = augmented(to_tensor(data[pick]))
        with autocast():
            guess = model(x)
        loss = 0
        for k, v in values.items():
            if (v[pick] >= 0).any():
                share = 1 if k in NAMES else (v[pick] >= 0).float().mean()
                loss = loss + share * F.cross_entropy(guess[k].float(), v[pick], ignore_index=-1, label_smoothing=0.05)
        if run.update(loss, batch):
            check()
    run.save()
    check()


@torch.no_grad()
def score(name="judge"):
    """Real pictures, and what is left of them after the autoencoder: no picture drawn through it can do better."""
    import train_vae

    data, rows = images(), items()
    model, vae = trained(name)[0], train_vae.load()
    wanted = {k: v[-HELD:] for k, v in everything(rows)[1].items()}
    real = to_tensor(data[-HELD:])
    with autocast():
        again = torch.cat([vae.decode(vae.encode(x).latent_dist.mode()).sample.float().clamp(-1, 1) for x in real.split(32)])
    print("real       ", right(model, real, wanted))
    print("autoencoded", right(model, again, wanted))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "train":
        train(float(sys.argv[2]), *sys.argv[3:])
    else:
        score(*sys.argv[2:])
