"""Instances (what a thing looks like, from a seed), views (how a photo shows it) and the drawing of one in the other."""
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np
import skia

import art
from things import FRAMES, LIVE, WORDS

SIDE = 128
HELD_SHARE = 12  # one in so many combinations of word, main colour and pattern is never trained on


def is_held_out(word, main, pattern):
    """Whether this combination is kept for evaluation subjects."""
    return crc32(f"{word}/{main}/{pattern}".encode()) % HELD_SHARE == 0


@dataclass(frozen=True)
class Instance:
    word: str
    main: str
    second: str
    accent: str
    pattern: str
    main_rgb: tuple
    second_rgb: tuple
    accent_rgb: tuple
    pattern_scale: float = 1.0
    pattern_shift: tuple = (0.0, 0.0)
    pattern_layout: int = 0
    shape: dict = field(default_factory=dict)

    def labels(self):
        return {"word": self.word, "main": self.main, "second": self.second, "accent": self.accent, "pattern": self.pattern, "shape": self.shape}


@dataclass(frozen=True)
class View:
    """How one picture shows an instance: centre and size in pixels, turn in degrees, mirrored or not, pose, light."""

    x: float = 64
    y: float = 65
    size: float = 102
    rotation: float = 0
    mirror: bool = False
    light: float = -1  # -1: from the left, 1: from the right
    pose: dict = field(default_factory=lambda: dict(NEUTRAL))


NEUTRAL = {"tilt": 0, "look": (0, 0), "blink": False, "mouth": 0, "tail": 0, "arms": 0, "time": (10, 10)}


def make_instance(rng, word=None, held_out=False, **fixed):
    """A random instance of a word; `fixed` attributes (main="red", pattern="dots", ...) are kept."""
    word = word or str(rng.choice(list(WORDS)))
    while True:
        main = fixed.get("main") or str(rng.choice(list(art.COLORS)))
        pattern = fixed.get("pattern") or (str(rng.choice(art.PATTERNS[1:])) if rng.random() < 0.72 else "plain")
        if is_held_out(word, main, pattern) == held_out or ("main" in fixed and "pattern" in fixed):
            break
    second = fixed.get("second") or str(rng.choice(art.MATCHES[main]))
    accent = fixed.get("accent") or str(rng.choice([c for c in art.MATCHES[main] if c != second]))
    shape = {}
    for name, options in WORDS[word][1].items():
        shape[name] = str(rng.choice(options)) if isinstance(options[0], str) else round(float(rng.uniform(*options)), 3)
    return Instance(
        word, main, second, accent, pattern, *(art.jitter(c, rng) for c in (main, second, accent)),
        pattern_scale=float(rng.uniform(0.92, 1.1)), pattern_shift=tuple(rng.uniform(-3, 3, 2).tolist()),
        pattern_layout=int(rng.integers(4)), shape=shape,
    )


def recolored(instance, **names):
    """The same thing with other colours or another pattern: recolored(i, main="blue", pattern="stars")."""
    rgb = {f"{k}_rgb": art.COLORS[v] for k, v in names.items() if k != "pattern" and getattr(instance, k) != v}
    return replace(instance, **names, **rgb)


def make_view(rng, word, spread=1.0, mirror=0.15):
    """A random view; `spread` scales how much place, size, turn and pose vary."""
    size = 101 + 7 * spread * rng.uniform(-1, 1)
    slack = 64 - size / 2
    live = word in LIVE or word == "robot"
    pose = dict(NEUTRAL)
    if live:
        pose.update(
            tilt=float(8 * spread * rng.uniform(-1, 1)), look=(float(rng.uniform(-1, 1)), float(rng.uniform(-0.6, 0.8))),
            blink=bool(rng.random() < 0.08), mouth=float(rng.random() < 0.45), tail=float(rng.uniform(-1, 1)), arms=float(rng.uniform(-0.2, 1)),
        )
    pose["time"] = (float(rng.uniform(0, 12)), float(rng.integers(12) * 5)) if word == "clock" else (10, 10)
    return View(
        x=64 + slack * spread * rng.uniform(-0.6, 0.6), y=65 + slack * spread * rng.uniform(-0.5, 0.5), size=size,
        rotation=float(np.clip(rng.normal(0, 3.5 * spread), -9, 9)), mirror=bool(rng.random() < mirror),
        light=float(rng.choice([-1, 1], p=[0.75, 0.25])), pose=pose,
    )


def draw(instance, view, side=SIDE):
    """-> RGBA float32 in 0..1, colours not multiplied by alpha; alpha is the exact mask."""
    pixels = np.zeros((side, side, 4), np.uint8)
    canvas = skia.Surface(pixels, skia.kRGBA_8888_ColorType).getCanvas()
    k = side / SIDE
    canvas.scale(k, k)
    canvas.translate(view.x, view.y)
    canvas.rotate(view.rotation)
    dx, dy, scale = FRAMES[instance.word]
    scale *= view.size / 100
    canvas.scale(-scale if view.mirror else scale, scale)
    canvas.translate(dx, dy)
    WORDS[instance.word][0](art.Pen(canvas, instance, view))
    rgba = pixels.astype(np.float32) / 255
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1 / 255)
    return np.clip(rgba, 0, 1)
