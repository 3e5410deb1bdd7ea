"""Write the trained parts as a base that eqdiff loads: python export.py FOLDER (diffusers' layout, half precision).

CLIP, judge and DINO without a checkpoint stay as they are in FOLDER.

The tokenizer is a WordLevel tokenizer.json over the world's words. CLIP and DINO are written where they are trained.
"""
import json
import os
import sys

import torch
from transformers import CLIPImageProcessor, ViTImageProcessor

import judge
import train_clip
import train_dino
import train_text
import train_unet
import train_vae
from common import checkpoint, load_averaged
from art import COLORS
from backgrounds import BACKGROUNDS
from safetensors.torch import load_file, save_file
from styles import STYLES
from train_text import Words
from world import PATTERN_WORDS

PARTS = dict(
    unet=["diffusers", "UNet2DConditionModel"], vae=["diffusers", "AutoencoderKL"], text_encoder=["transformers", "CLIPTextModel"],
    tokenizer=["transformers", "PreTrainedTokenizerFast"], scheduler=["diffusers", "DDIMScheduler"],
    safety_checker=[None, None], feature_extractor=[None, None],
)


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        json.dump(content, f, indent=1)
        f.write("\n")


def write_tokenizer(folder):
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, **Words().ids}
    marks = [dict(id=i, content=w, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True) for w, i in vocabulary.items() if i < 2]
    write(f"{folder}/tokenizer.json", dict(
        version="1.0", truncation=None, padding=None, added_tokens=marks, normalizer={"type": "Lowercase"}, pre_tokenizer={"type": "Whitespace"},
        post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": w, "type_id": 0}} if w.startswith("<") else {"Sequence": {"id": "A", "type_id": 0}} for w in ("<|startoftext|>", "A", "<|endoftext|>")],
                        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {w: {"id": w, "ids": [i], "tokens": [w]} for w, i in list(vocabulary.items())[:2]}},
        decoder=None, model={"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"},
    ))
    write(f"{folder}/tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "a", "model_max_length": train_text.LENGTH})


def folded(weight, norm):
    """Kernel and bias of a convolution with the batch norm behind it."""
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight.weight * gain.view(-1, 1, 1, 1), (weight.bias - norm.running_mean) * gain + norm.bias


def wordings():
    """How prompts ask for a name, by attribute: [wording, name], the longest wordings first."""
    bare = lambda template: template.replace("{n}", "").replace("{}", "").strip()
    found = {
        "background": [[p, name] for name, b in BACKGROUNDS.items() for p in b[1]],
        "style": [[bare(t), name] for name, s in STYLES.items() for t in s[1]],
        "main": [[c, c] for c in COLORS],
        "pattern": [[w, name] for name, pair in PATTERN_WORDS.items() for w in pair],
    }
    return {k: sorted(v, key=lambda x: -len(x[0])) for k, v in found.items()}


def write_judge(folder):
    """The judge with its batch norms folded into its convolutions."""
    model, names = judge.trained()
    tensors = {f"heads.{k}.{p}": v for k, head in model.heads.items() for p, v in (("weight", head.weight), ("bias", head.bias))}
    for i, block in enumerate(model.blocks):
        for part, norm in (("down", block.n1), ("conv", block.n2)):
            tensors[f"blocks.{i}.{part}.weight"], tensors[f"blocks.{i}.{part}.bias"] = folded(getattr(block, part), norm)
    write(f"{folder}/config.json", {"image_size": 128, "widths": judge.WIDTHS, "labels": names, "wordings": wordings(), "colorless": [k for k, s in STYLES.items() if not s[2]]})
    save_file({k: v.half().contiguous() for k, v in tensors.items()}, f"{folder}/model.safetensors")


def export(folder):
    load_averaged(train_unet.Painter(), "unet").unet.half().save_pretrained(f"{folder}/unet")
    vae = train_vae.load()
    vae.register_to_config(scaling_factor=float(train_vae.scaling()))
    vae.half().save_pretrained(f"{folder}/vae")
    train_text.load().half().save_pretrained(f"{folder}/text_encoder")
    train_unet.scheduler().save_pretrained(f"{folder}/scheduler")
    write_tokenizer(f"{folder}/tokenizer")
    write(f"{folder}/model_index.json", {"_class_name": "StableDiffusionPipeline", **PARTS})
    if os.path.exists(checkpoint("clip")):
        train_clip.load().half().save_pretrained(f"{folder}/clip")
        kept = load_file(f"{folder}/clip/model.safetensors")  # its text tower is text_encoder, which is there once
        save_file({k: v for k, v in kept.items() if not k.startswith("text_model.")}, f"{folder}/clip/model.safetensors")
        side = train_clip.SIDE
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=list(train_clip.MEAN), image_std=list(train_clip.STD)).save_pretrained(f"{folder}/clip")
    if os.path.exists(f"{folder}/clip"):
        write_tokenizer(f"{folder}/clip")
    if os.path.exists(checkpoint("judge")):
        write_judge(f"{folder}/judge")
    if os.path.exists(checkpoint("dino")):
        train_dino.load().half().save_pretrained(f"{folder}/dino")
        side = train_dino.SIDE
        ViTImageProcessor(size={"height": side, "width": side}, image_mean=list(train_dino.MEAN), image_std=list(train_dino.STD), resample=3).save_pretrained(f"{folder}/dino")


if __name__ == "__main__":
    with torch.no_grad():
        export(sys.argv[1])
