"""The two networks that teach train_vae.py's decoder textures: neither of them is exported.

python perceptual.py MINUTES     trains Features on the training set; kept in SCRATCH/ckpt/perceptual.pt

Pixel losses want the mean of all textures that a latent leaves open, which is none. So the decoder is also told
how far its pictures are from the true ones in the features of a frozen classifier, as latent diffusion's own
autoencoder is (arXiv 2112.10752; there LPIPS on VGG, here Features, which learns word, background and style of
the training set's pictures). The Guide makes the decoder see which texture is due, and where.
"""
import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from common import SCRATCH, Run, autocast, images, items, to_tensor

NAME = "perceptual"
LABELS = ("word", "background", "style")
HELD = 500  # last images of the set


def labels():
    """-> {label: (its values, the index of each picture's)}"""
    rows = items()
    out = {}
    for k in LABELS:
        values = sorted({r[k] for r in rows})
        out[k] = values, torch.tensor([values.index(r[k]) for r in rows])
    return out


class Features(nn.Module):
    """A plain classifier of 3 x 3 convolutions and average pools; distance() compares its inner activations."""

    STAGES = ((3, 24), (24, 48), (48, 96, 96), (96, 128, 128))

    def __init__(self, sizes):
        super().__init__()
        conv = lambda a, b: [nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)]
        self.stages = nn.ModuleList(nn.Sequential(*sum((conv(a, b) for a, b in zip(w, w[1:])), [])) for w in self.STAGES)
        self.heads = nn.ModuleDict({k: nn.Linear(128, n) for k, n in sizes.items()})

    def maps(self, x):
        """NCHW in -1..1 -> activations at 1, 1/2, 1/4, 1/8 of its size"""
        out = []
        for stage in self.stages:
            x = stage(F.avg_pool2d(x, 2) if out else x)
            out.append(x)
        return out

    def forward(self, x):
        h = F.avg_pool2d(self.maps(x)[-1], 2)
        h = F.silu(h).mean((2, 3))
        return {k: head(h) for k, head in self.heads.items()}

    def distance(self, x, y):
        """Mean squared distance of the activations, each position's scaled to length 1 (as in LPIPS)."""
        return sum((F.normalize(a) - F.normalize(b)).square().sum(1).mean() for a, b in zip(self.maps(x), self.maps(y)))


def trained():
    """The frozen Features."""
    net = Features({k: len(v) for k, (v, _) in labels().items()})
    net.load_state_dict(torch.load(os.path.join(SCRATCH, "ckpt", NAME + ".pt"))["module"])
    return net.eval().requires_grad_(False)


class Guide(nn.Module):
    """Reads off the decoder's features at 16 x 16 where each of them is, its 8 x 8 pixels and the picture's style.

    What follows these features are upsamplings that repeat pixels and convolutions that are the same everywhere:
    out of even features they make an even picture, never a grid. The only thing that tells them where they are
    is the zero padding, and which texture is due, a faint trace in the latents. Told only how wrong its pixels
    are, the decoder used hardly any of it; asked directly, it learnt to within minutes.
    """

    def __init__(self, width, styles):
        super().__init__()
        self.read = nn.Conv2d(width, 8 + 192 + styles, 1)
        n = torch.arange(16.0)
        waves = torch.stack([torch.cos(torch.pi * n), torch.cos(torch.pi / 2 * n), torch.cos(torch.pi / 4 * n), n / 8 - 1])
        place = torch.cat([waves[:, None, :].expand(4, 16, 16), waves[:, :, None].expand(4, 16, 16)])
        self.register_buffer("place", place, persistent=False)

    def forward(self, features, x, style):
        """-> errors of the place, of the pixels and of the style"""
        place, pixels, styles = self.read(features).float().split((8, 192, self.read.out_channels - 200), 1)
        far = (place - self.place).square().mean()
        return far, (F.pixel_shuffle(pixels, 8) - x).abs().mean(), F.cross_entropy(styles, style[:, None, None].expand(-1, 16, 16))


@torch.no_grad()
def check(net, data, known, run):
    net.eval()
    out = [net(to_tensor(data[i : i + 100])) for i in range(len(data) - HELD, len(data), 100)]
    right = {k: (torch.cat([o[k] for o in out]).argmax(1) == known[k][1][-HELD:]).float().mean() for k in LABELS}
    net.train()
    run.say("held-out accuracy " + " ".join(f"{k} {v:.3f}" for k, v in right.items()))


def main(minutes, lr=2e-3):
    data, known = images(), labels()
    torch.manual_seed(0)
    rng = np.random.default_rng()
    net = Features({k: len(v) for k, (v, _) in known.items()})
    run = Run(NAME, net, minutes, lr, decay=0.05, every=120)
    while run.running():
        pick = rng.integers(0, len(data) - HELD, 32)
        x = to_tensor(data[pick])
        dy, dx = rng.integers(0, 9, 2)
        x = x[..., dy : dy + 120, dx : dx + 120]
        with autocast():
            out = net(x)
        loss = sum(F.cross_entropy(out[k].float(), known[k][1][pick]) for k in LABELS)
        if run.update(loss, len(x)):
            check(net, data, known, run)
    run.save()
    check(net, data, known, run)


if __name__ == "__main__":
    main(float(sys.argv[1]))
