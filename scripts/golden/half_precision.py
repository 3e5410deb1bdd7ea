"""How far do PyTorch's own values move when the weights of the models are rounded to bf16?

    python half_precision.py [--seed 1] [--clip-vocab DIR]

Records the cases of make_golden.py twice, in float32 both times, the second time from weights rounded to bf16, and
compares as `eqdiff verify --dtype bf16` does: relative L2 distance, bound 2e-2. Token embeddings are not rounded.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

import make_golden

BOUND = 2e-2


def rounded(build):
    def build_rounded(*args):
        models = build(*args)
        for model in models[:3]:  # unet, vae, text encoder
            for name, p in model.named_parameters():
                if p.ndim > 1 and "embedding" not in name:
                    p.data = p.data.bfloat16().float()
        return models

    return build_rounded


def record(folder: Path, args, build):
    original, make_golden.build_models = make_golden.build_models, build
    sys.argv = ["make_golden.py", str(folder), "--seed", str(args.seed), "--clip-vocab", str(args.clip_vocab)]
    make_golden.main()
    make_golden.build_models = original
    return {f"{p.stem}: {k}": v for p in folder.glob("*.safetensors") for k, v in load_file(p).items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    vocab = Path(__file__).parent / "../../assets/golden/model/tokenizer"
    parser.add_argument("--clip-vocab", type=Path, default=vocab)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        build = make_golden.build_models
        exact, moved = record(Path(a), args, build), record(Path(b), args, rounded(build))
    compared, beyond = 0, 0
    for name, value in exact.items():
        if ": in." in name or not value.is_floating_point():
            continue
        size, gap = value.double().norm(), (moved[name].double() - value.double()).norm()
        error = (gap / size if size > 0 else gap).item()
        compared += 1
        if error > BOUND:
            beyond += 1
            print(f"{error:.1e}  {name}")
    print(f"{beyond} of {compared} values beyond {BOUND}")


if __name__ == "__main__":
    main()
