"""Measure the exported CLIP, DINO and autoencoder on composites that training never saw.

python measure.py [N=480]

clip   zero-shot word accuracy: of "a photo of a WORD" for all words, which is nearest to the picture?
dino   how often the nearest neighbour of a held-out subject's photo is another photo of the same subject
vae    encoding and decoding: PSNR, and, where there is a judge.pt, what the judge still recognises afterwards;
       no picture drawn through this autoencoder can be expected to do better than that
"""
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F

import judge
import scenes
import sprites
from common import MODEL, to_tensor

SEED = 40_000_000  # not reached by make_data.py and judge.py


@torch.no_grad()
def clip_word_accuracy(rows):
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = os.path.join(MODEL, "clip")
    clip = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    tok, look = CLIPTokenizer.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)
    words = list(sprites.CLASSES)
    ids = tok([f"a photo of {scenes.article(w)}" for w in words], padding="max_length", max_length=77, return_tensors="pt").input_ids
    text = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
    pixels = look([Image.fromarray(r["image"]) for r in rows], return_tensors="pt").pixel_values
    image = torch.cat([clip.visual_projection(clip.vision_model(pixel_values=p).pooler_output) for p in pixels.split(64)])
    best = (F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T).argmax(1)
    right = np.array([words[b] == r["word"] for b, r in zip(best.tolist(), rows)])
    photo = np.array([r["style"] == "photo" for r in rows])
    return {"all": right.mean(), "unstyled": right[photo].mean(), "styled": right[~photo].mean()}


def dino_neighbours():
    from transformers import ViTModel

    import train_dino

    vit = ViTModel.from_pretrained(os.path.join(MODEL, "dino"), torch_dtype=torch.float32, add_pooling_layer=False).eval()
    return train_dino.measure(vit)


@torch.no_grad()
def round_trip(rows):
    """The pictures (uint8) encoded and decoded."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(os.path.join(MODEL, "vae"), torch_dtype=torch.float32).eval()
    out = []
    for at in range(0, len(rows), 16):
        x = to_tensor(np.stack([r["image"] for r in rows[at : at + 16]]))
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        out.append(((y + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(out)


def psnr(a, b):
    return -10 * np.log10(((a.astype(np.float32) - b) ** 2).mean((1, 2, 3)) / 255**2)


def recognised(pictures, rows):
    """-> {word, background, style and each style: share that the judge names right}"""
    got = judge.guess(judge.load(), pictures)
    right = {k: np.array([names[g] == r[k] for g, r in zip(got[k].tolist(), rows)]) for k, names in judge.NAMES.items()}
    shares = {k: v.mean() for k, v in right.items()}
    style = np.array([r["style"] for r in rows])
    return shares | {s: right["style"][style == s].mean() for s in judge.NAMES["style"] if (style == s).any()}


if __name__ == "__main__":
    pool = scenes.training_pool()
    rows = [scenes.draw(SEED + i, pool) for i in range(int(sys.argv[1]) if len(sys.argv) > 1 else 480)]
    print("CLIP zero-shot word accuracy:", {k: round(float(v), 3) for k, v in clip_word_accuracy(rows).items()})
    if os.path.exists(os.path.join(MODEL, "dino", "config.json")):
        print("DINO nearest neighbour:", dino_neighbours())
    pictures, decoded = np.stack([r["image"] for r in rows]), round_trip(rows)
    print(f"autoencoder PSNR: {psnr(pictures, decoded).mean():.2f} dB")
    if os.path.exists(judge.PATH):
        for name, shown in ("untouched", pictures), ("through the autoencoder", decoded):
            print(f"the judge recognises, {name}:", {k: round(float(v), 3) for k, v in recognised(shown, rows).items()})
