"""Checkpoints from a base's half-precision weights, where the ones that it was trained from are gone.

python restore.py FOLDER     writes $MINI_SCRATCH/ckpt: unet, vae, text and judge; `train_*.py` go on from them

The optimisers begin anew, and so do the heads that no base carries. The judge's norms are folded into its convolutions:
it can judge, not learn further.
"""
import json
import os
import sys

import torch
from safetensors.torch import load_file

import judge
import train_unet
from common import SCRATCH, checkpoint


def read(path):
    return {k: v.float() for k, v in load_file(path).items()}


def keep(name, module, **more):
    torch.save({"module": module, "opt": None, "ema": None, "step": 0, "seen": 0, **more}, checkpoint(name))


def unfolded(folder):
    """The judge with norms that change nothing."""
    with open(f"{folder}/config.json") as f:
        names = json.load(f)["labels"]
    model, tensors = judge.Judge({k: len(v) for k, v in names.items()}), read(f"{folder}/model.safetensors")
    state = model.state_dict()
    for i in range(len(judge.WIDTHS)):
        for part, norm in (("down", "n1"), ("conv", "n2")):
            state[f"blocks.{i}.{norm}.running_var"] -= getattr(model.blocks[i], norm).eps
    model.load_state_dict(state | tensors)
    return model.state_dict(), names


def restore(folder):
    os.makedirs(os.path.join(SCRATCH, "ckpt"), exist_ok=True)
    prefixed = lambda prefix, part, file="model": {prefix + k: v for k, v in read(f"{folder}/{part}/{file}.safetensors").items()}
    keep("unet", train_unet.Painter().state_dict() | prefixed("unet.", "unet", "diffusion_pytorch_model"))
    keep("vae", prefixed("", "vae", "diffusion_pytorch_model"))
    with open(f"{folder}/vae/config.json") as f, open(os.path.join(SCRATCH, "scaling.json"), "w") as out:
        json.dump(json.load(f)["scaling_factor"], out)
    keep("text", prefixed("text.", "text_encoder"))
    state, names = unfolded(f"{folder}/judge")
    keep("judge", state, names=names)


if __name__ == "__main__":
    restore(sys.argv[1])
