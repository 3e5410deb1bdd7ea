"""The tokenizer's words and the text encoder, which learns to read from captions and labels alone, before any UNet.

python train_text.py [MINUTES=3]        reading
python train_text.py names [MINUTES=3]  the names of looks, from the descriptions that they stand for

States of an untrained encoder hardly depend on the caption (5 % of their variance), and a UNet ignores them.
"""
import sys

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel

import judge
import world
from backgrounds import BACKGROUNDS
from common import HELD, Run, autocast, checkpoint, items
from instances import make_instance
from styles import STYLES

WIDTH = 128
LENGTH = 32  # tokens of a caption; every word is one
NAMED = list(world.LOOKS.items())


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


def named(rng, words):
    """A caption with a look's name and the same with its description -> (ids, ids, the place in the second caption whose
    state each token of the first should have)."""
    word, seed = str(rng.choice(list(world.WORDS))), int(rng.integers(2**31))
    place = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.6 else None
    style = str(rng.choice(list(STYLES))) if rng.random() < world.STYLED else None
    (main, second, pattern), name = NAMED[rng.integers(len(NAMED))]
    described = world.describe(None, make_instance(rng, word, main=main, second=second, pattern=pattern), detail=3)
    short, full = (world.phrase(np.random.default_rng(seed), noun, place, style) for noun in (f"{name} {word}", described))
    at, said = short.split().index(name) + 1, full.split()  # one token begins a caption
    extra = len(described.split()) - 2
    places = np.arange(LENGTH)
    places[at + 1] = said.index(word) + 1
    ended = len(short.split()) + 1
    places[at + 2 : ended] += extra
    places[ended:] = np.maximum(places[ended:], ended + extra)
    return words([short])[0], words([full])[0], torch.from_numpy(places)


def name(minutes, lr=1e-3, batch=96):
    """Go on so that names say what they stand for, and everything else what it said before."""
    rows, rng, words = items(), np.random.default_rng(), Words()
    ordinary = words([c for r in rows[:-HELD] for c in r["captions"][:4]])
    before, model = load(), load().train().requires_grad_(True)
    run = Run("named", model, minutes, lr, warmup=30, every=1e9)
    while run.running():
        short, full, places = map(torch.stack, zip(*(named(rng, words) for _ in range(batch))))
        usual = ordinary[rng.integers(0, len(ordinary), batch)]
        with autocast():
            with torch.no_grad():
                wanted, kept = (before(input_ids=ids).last_hidden_state.float() for ids in (full, usual))
            says, keeps = (model(input_ids=ids).last_hidden_state.float() for ids in (short, usual))
        wanted = wanted.gather(1, places[..., None].expand_as(wanted))
        said, kept = F.mse_loss(says, wanted), F.mse_loss(keeps, kept)
        run.update(said + kept, batch, said=said.detach(), kept=kept.detach())
    table = model.get_input_embeddings().weight.data
    table[words.ids[world.START]] = table[[words.ids[name] for name in world.LOOKS.values()]].mean(0)
    state = torch.load(checkpoint("text"), map_location="cpu")
    state["module"].update({f"text.{k}": v for k, v in model.state_dict().items()})
    torch.save(state, checkpoint("text"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    minutes = [float(a) for a in sys.argv[1:] if a != "names"]
    (name if "names" in sys.argv else train)(*(minutes or [3]))
