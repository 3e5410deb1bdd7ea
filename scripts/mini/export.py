"""Write the trained parts as a base that eqdiff loads: python export.py FOLDER (diffusers' layout, half precision).

The tokenizer is a WordLevel tokenizer.json over the world's words. CLIP and DINO are written where they are trained.
"""
import json
import os
import sys

import torch
from transformers import CLIPImageProcessor, ViTImageProcessor

import train_clip
import train_dino
import train_text
import train_unet
import train_vae
from common import checkpoint, load_averaged
from train_text import Words

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
        write_tokenizer(f"{folder}/clip")
        side = train_clip.SIDE
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=list(train_clip.MEAN), image_std=list(train_clip.STD)).save_pretrained(f"{folder}/clip")
    if os.path.exists(checkpoint("dino")):
        train_dino.load().half().save_pretrained(f"{folder}/dino")
        side = train_dino.SIDE
        ViTImageProcessor(size={"height": side, "width": side}, image_mean=list(train_dino.MEAN), image_std=list(train_dino.STD), resample=3).save_pretrained(f"{folder}/dino")


if __name__ == "__main__":
    with torch.no_grad():
        export(sys.argv[1])
