"""The tokenizer's words and the text encoder, which learns to read from captions and labels alone, before any UNet.

python train_text.py [MINUTES=3]

States of an untrained encoder hardly depend on the caption (5 % of their variance), and a UNet ignores them.
"""
import sys

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel

import judge
import world
from common import HELD, Run, autocast, checkpoint, items

WIDTH = 128
LENGTH = 32  # tokens of a caption; every word is one


class Words:
    """Captions -> ids, one a word: 0 begins, 1 ends and fills."""

    def __init__(self):
        self.ids = {w: i + 2 for i, w in enumerate(world.vocabulary())}

    def __len__(self):
        return len(self.ids) + 2

    def __call__(self, captions):
        out = np.ones((len(captions), LENGTH), np.int64)
        for row, c in zip(out, captions):
            ids = [0] + [self.ids[w] for w in c.split()]
            row[: len(ids)] = ids
        return torch.from_numpy(out)


def encoder():
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(Words()), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1, projection_dim=WIDTH,
    ))


class Reader(torch.nn.Module):
    """The text encoder, asked for every token's own word and, where a caption has ended, for all that it named."""

    def __init__(self, sizes):
        super().__init__()
        self.text = encoder()
        self.own = torch.nn.Linear(WIDTH, len(Words()))
        self.heads = torch.nn.ModuleDict({k: torch.nn.Linear(WIDTH, n) for k, n in sizes.items()})

    def forward(self, ids, values):
        states = self.text(input_ids=ids).last_hidden_state
        ended = ids == 1
        loss = F.cross_entropy(self.own(states[~ended]).float(), ids[~ended])
        for k, head in self.heads.items():
            wanted = values[k][:, None].expand_as(ids)[ended]
            loss = loss + F.cross_entropy(head(states[ended]).float(), wanted, ignore_index=-1)
        return loss


def load():
    text = encoder()
    learnt = torch.load(checkpoint("text"), map_location="cpu")["module"]
    text.load_state_dict({k[5:]: v for k, v in learnt.items() if k.startswith("text.")})
    return text.eval().requires_grad_(False)


def train(minutes, lr=2e-3, batch=192):
    rows, rng = items(), np.random.default_rng()
    names, values = judge.labels(rows)
    full = Words()([r["captions"][3] for r in rows])  # names everything
    model = Reader({k: len(v) for k, v in names.items()})
    run = Run("text", model, minutes, lr, warmup=30, every=1e9)
    while run.running():
        pick = rng.integers(0, len(rows) - HELD, batch)
        with autocast():
            loss = model(full[pick], {k: v[pick] for k, v in values.items()})
        run.update(loss, batch)
    run.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(float(sys.argv[1]) if len(sys.argv) > 1 else 3)
