"""Sprite atlas of the mini domain: which nouns exist, which instances are held out.

`python sprites.py` fetches the icon packages with `npm pack` (or uses those already in
$MINI_SCRATCH/npm), rasterises the chosen emoji and writes sprites.npz beside this file.
`python sprites.py zoo` rasterises every other emoji too, into $MINI_SCRATCH/zoo.npz: more
instances for train_dino.py, which needs no words.
Licences: Fluent Emoji (MIT, Microsoft), Noto Emoji (Apache-2.0, Google), FxEmoji (Apache-2.0, Mozilla).
"""
import io
import json
import os
import re
import subprocess
import sys
import tarfile

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
SCRATCH = os.environ.get("MINI_SCRATCH", os.path.join(os.path.dirname(os.path.abspath(__file__)), "scratch"))
ATLAS = os.path.join(HERE, "sprites.npz")
ZOO = os.path.join(SCRATCH, "zoo.npz")
SIZE = 128  # stored sprite side (tight bounding box, longest side = SIZE)

PACKAGES = {  # set letter -> npm package
    "f": "@iconify-json/fluent-emoji",
    "l": "@iconify-json/fluent-emoji-flat",
    "n": "@iconify-json/noto",
    "v": "@iconify-json/noto-v1",
    "x": "@iconify-json/fxemoji",
    "d": "@lobehub/fluent-emoji-3d",
}

# class word -> emoji names; each emoji gives up to six instances (one per set). The first, as
# Fluent draws it, is how the base mostly sees the word (scenes.training_pool)
CLASSES = {
    "dog": ["dog-face", "dog", "poodle", "guide-dog"],
    "cat": ["cat-face", "cat", "black-cat", "grinning-cat"],
    "rabbit": ["rabbit-face", "rabbit"],
    "duck": ["duck"],
    "penguin": ["penguin"],
    "fish": ["fish", "tropical-fish", "blowfish"],
    "butterfly": ["butterfly"],
    "teddy bear": ["teddy-bear"],
    "robot": ["robot"],
    "car": ["automobile", "taxi", "police-car", "sport-utility-vehicle"],
    "bicycle": ["bicycle"],
    "boat": ["sailboat", "motor-boat"],
    "rocket": ["rocket"],
    "house": ["house", "house-with-garden"],
    "tree": ["deciduous-tree", "evergreen-tree"],
    "flower": ["sunflower", "blossom", "hibiscus", "tulip"],
    "mushroom": ["mushroom"],
    "apple": ["red-apple", "green-apple"],
    "pumpkin": ["jack-o-lantern"],
    "teapot": ["teapot"],
    "clock": ["three-oclock", "ten-oclock", "alarm-clock", "mantelpiece-clock"],
    "guitar": ["guitar"],
    "backpack": ["backpack"],
    "umbrella": ["umbrella", "umbrella-with-rain-drops"],
}

# never shown in training: "emoji" holds out every set of it, "emoji/set" one instance.
# The first key of each entry is the instance used as the personalisation subject.
HELD_OUT = {
    "poodle": ["poodle/f", "poodle"],
    "guide_dog": ["guide-dog/f", "guide-dog"],
    "black_cat": ["black-cat/n", "black-cat"],
    "blowfish": ["blowfish/n", "blowfish"],
    "suv": ["sport-utility-vehicle/n", "sport-utility-vehicle"],
    "mantel_clock": ["mantelpiece-clock/f", "mantelpiece-clock"],
    "backpack": ["backpack/n"],
    "teapot": ["teapot/n"],
    "robot": ["robot/v"],
    "teddy": ["teddy-bear/n"],
    "guitar": ["guitar/v"],
}

# FxEmoji has its own names
FX_NAMES = {
    "dog-face": "dog", "dog": "dogside", "cat-face": "cat", "cat": "catside", "rabbit-face": "bunny", "rabbit": "bunnyside",
    "tropical-fish": "tropicalfish", "motor-boat": "speedboat", "house": "housebuilding", "house-with-garden": "housewithgarden",
    "deciduous-tree": "deciduoustree", "evergreen-tree": "evergreen", "red-apple": "redapple", "green-apple": "greenapple",
    "jack-o-lantern": "jackolantern", "alarm-clock": "alarmclock", "police-car": "policecar",
    "umbrella-with-rain-drops": "umbrellawithraindrops", "poodle": "poodle", "three-oclock": "clock3oclock",
    "mantelpiece-clock": "manltepiececlock",
}
BROKEN = {"sailboat/x", "motor-boat/f", "motor-boat/l", "motor-boat/d", "motor-boat/x"}  # drawings with a background of their own
ZOO_SKIP = r"skin|flag|keycap|hand|person|people|man-|woman-|men-|women-|family|couple|kiss|service-dog|bear|hat|cap|button|arrow|square|circle|oclock|thirty"


def is_held_out(key):
    emoji = key.split("/")[0]
    return any(key in v or emoji in v for v in HELD_OUT.values())


def fetch():
    """npm pack the packages into $MINI_SCRATCH/npm, return {set: tarball}."""
    folder = os.path.join(SCRATCH, "npm")
    os.makedirs(folder, exist_ok=True)
    out = {}
    for letter, package in PACKAGES.items():
        stem = package[1:].replace("/", "-") + "-"
        have = [f for f in os.listdir(folder) if f.startswith(stem) and f[len(stem)].isdigit()]
        if not have:
            subprocess.run(["npm", "pack", package, "--silent"], cwd=folder, check=True)
            have = [f for f in os.listdir(folder) if f.startswith(stem) and f[len(stem)].isdigit()]
        out[letter] = os.path.join(folder, have[0])
    return out


def tight(image):
    """Crop to the alpha bounding box, scale its longest side to SIZE, centre on a square."""
    a = np.asarray(image)[..., 3]
    ys, xs = np.where(a > 8)
    image = image.crop((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    s = SIZE / max(image.size)
    image = image.resize([max(1, round(v * s)) for v in image.size], Image.LANCZOS)
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return np.asarray(square)


def renderer():
    """-> (render(set letter, emoji name) -> RGBA image or None, emoji names of the Noto set)"""
    import resvg_py

    balls = {k: tarfile.open(v) for k, v in fetch().items()}
    codes = {}  # emoji name -> code point strings
    icons = {}
    for letter in "flnvx":
        read = lambda f: json.load(balls[letter].extractfile("package/" + f))
        icons[letter] = read("icons.json")
        if letter != "x":
            for code, name in read("chars.json").items():
                codes.setdefault(name, []).append(code)
    renders = {os.path.basename(m.name)[:-5]: m for m in balls["d"].getmembers() if m.name.endswith(".webp")}

    def render(letter, name):
        if letter == "d":
            for code in codes.get(name, []):
                for c in (code, code + "-fe0f"):
                    if c in renders:
                        return Image.open(io.BytesIO(balls["d"].extractfile(renders[c]).read())).convert("RGBA")
            return None
        d = icons[letter]
        if letter == "x":
            name = FX_NAMES.get(name, name)
        name = d.get("aliases", {}).get(name, {}).get("parent", name)
        if name not in d["icons"]:
            return None
        icon = d["icons"][name]
        w, h = (icon.get(k, d.get(k)) for k in ("width", "height"))
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {w} {h}" width="256" height="256">{icon["body"]}</svg>'
        return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")

    return render, sorted(icons["n"]["icons"])


def build():
    render, _ = renderer()
    keys, words, pixels = [], [], []
    for word, emojis in CLASSES.items():
        for emoji in emojis:
            for letter in "flnvdx":
                image = render(letter, emoji)
                if image is None:
                    continue
                keys.append(f"{emoji}/{letter}")
                words.append(word)
                pixels.append(tight(image))
    np.savez_compressed(ATLAS, keys=keys, words=words, pixels=np.stack(pixels))
    print(len(keys), "sprites", os.path.getsize(ATLAS) / 1e6, "MB")
    held = {n: {"instance": v[0], "class": words[keys.index(v[0])]} for n, v in HELD_OUT.items()}
    for n, v in held.items():
        v["never_trained"] = [k for k in keys if k in HELD_OUT[n] or k.split("/")[0] in HELD_OUT[n]]
    with open(os.path.join(HERE, "holdout.json"), "w") as f:
        json.dump(held, f, indent=1)


def build_zoo(side=96):
    """Every other emoji (one sprite a set), without the held-out ones, at `side` pixels."""
    render, names = renderer()
    keys, pixels = [], []
    for name in names:
        if re.search(ZOO_SKIP, name) or is_held_out(name + "/"):
            continue
        for letter in "lnvd":
            image = None if is_held_out(f"{name}/{letter}") else render(letter, name)
            if image is None or np.asarray(image)[..., 3].mean() < 20:
                continue
            keys.append(f"{name}/{letter}")
            pixels.append(np.asarray(Image.fromarray(tight(image)).resize((side, side), Image.LANCZOS)))
    np.savez(ZOO, keys=keys, pixels=np.stack(pixels))
    print(len(keys), "sprites in the zoo")


def load():
    """-> (keys, class words, RGBA uint8 [N, SIZE, SIZE, 4])"""
    z = np.load(ATLAS)
    return [str(k) for k in z["keys"]], [str(w) for w in z["words"]], z["pixels"]


if __name__ == "__main__":
    if sys.argv[1:] == ["zoo"]:
        build_zoo()
    else:
        build()
