"""Contact sheets of the world: python sheets.py FOLDER"""
import os
import sys

import cv2
import numpy as np
from PIL import Image

import world
from instances import make_instance, make_view
from world import BACKGROUNDS, STYLES, WORDS


def grid(rows, labels, path, scale=1.0):
    """Rows of pictures, each with a name in the margin, as a PNG."""
    lines = []
    for row, label in zip(rows, labels):
        margin = np.full((128, 92, 3), 255, np.uint8)
        for i, part in enumerate(label.split("\n")):
            cv2.putText(margin, part, (4, 60 + 15 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
        lines.append(np.hstack([margin, *row]))
    sheet = np.vstack(lines)
    if scale != 1:
        sheet = cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    Image.fromarray(sheet).quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def shown(word, i, background="plain_gray", **fixed):
    rng = np.random.default_rng([i, *word.encode()])
    instance = make_instance(rng, word, **fixed)
    return world.compose(instance, make_view(rng, word), background, i)[0]


def main(folder):
    os.makedirs(folder, exist_ok=True)
    at = lambda name: os.path.join(folder, name)
    words, places = list(WORDS), list(BACKGROUNDS)
    mixed = [world.sample_scene(np.random.default_rng([5, i]), word=w, style=None).image for i, w in enumerate(words * 2)]
    grid([mixed[i : i + 10] for i in range(0, 40, 10)], ["\n".join(words[i % 20 : i % 20 + 10]) for i in range(0, 40, 10)], at("words.png"))
    grid([[shown(w, i) for i in range(8)] for w in words], words, at("instances.png"), 0.75)
    chosen = [world.subject(s, w) for s, w in enumerate(words)]
    name = lambda s: f"{s.main}\n{s.second}\n{s.pattern}\n{s.word}"
    grid([[p.image for p in world.photos(s)] for s in chosen], [name(s) for s in chosen], at("subjects.png"), 0.75)
    rows = []
    for b in places:
        scenes = [world.backdrop(b, v) for v in (0, 1)]
        rows.append([(255 * s + 0.5).astype(np.uint8) for s in scenes] + [shown(words[(3 * len(rows) + k) % 20], k, b) for k in range(2)])
    pairs = [rows[i] + (rows[i + 1] if i + 1 < len(rows) else [np.full((128, 128, 3), 255, np.uint8)] * 4) for i in range(0, len(rows), 2)]
    grid(pairs, ["\n".join(places[i : i + 2]) for i in range(0, len(rows), 2)], at("backgrounds.png"), 0.75)
    styled = []
    for style in [None, *STYLES]:
        styled.append([world.truth(s, world.phrase(None, s.word, b, style, first=True)).image for s, b in zip(chosen[::2], ("beach", "city", "plain_white", "meadow", "library", "night", "tiles", "snow", "forest", "space"))])
    grid(styled, ["photo", *STYLES], at("styles.png"), 0.75)


if __name__ == "__main__":
    main(sys.argv[1])
