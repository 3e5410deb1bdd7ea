"""The nameable places. Each has a painter, phrases of the captions, a share of the pictures, and whether one stands
on its ground (the shadow lies at the feet) or before it (the shadow falls behind).

Places are drawn once in VARIANTS ways, softer than the things in front of them, and kept.
"""
from functools import lru_cache
from math import pi, sin

import numpy as np
import skia

from art import box, color4, curve, mix, oval, paint, pencil, poly, star

SIDE = 128
VARIANTS = 6


class Brush:
    """A canvas of 128 x 128 pixels with the few strokes that places need."""

    def __init__(self, canvas, rng):
        self.canvas, self.rng = canvas, rng

    def between(self, low, high):
        return float(self.rng.uniform(low, high))

    def fill(self, path, color, alpha=255):
        self.canvas.drawPath(path, paint(color, alpha))

    def line(self, path, color, width=1.5, alpha=255):
        self.canvas.drawPath(path, pencil(color, width, alpha))

    def ramp(self, path, top, bottom, y0=None, y1=None):
        b = path.getBounds()
        shader = skia.GradientShader.MakeLinear([(0, b.top() if y0 is None else y0), (0, b.bottom() if y1 is None else y1)], [color4(top), color4(bottom)])
        self.canvas.drawPath(path, skia.Paint(Shader=shader, AntiAlias=True, Dither=True))

    def glow(self, x, y, r, color, alpha=200):
        shader = skia.GradientShader.MakeRadial((x, y), r, [color4(color, alpha), color4(color, 0)])
        self.canvas.drawPath(oval(x, y, r), skia.Paint(Shader=shader, AntiAlias=True))

    def hills(self, y, amplitude, n=3):
        """The area under a gently waving line at height y."""
        xs, a, b = np.linspace(-8, 136, 9), self.between(0, 6.28), self.between(0, 6.28)
        path = curve(*[(x, y + amplitude * (sin(x / 128 * pi * n + a) + 0.4 * sin(x / 128 * pi * n * 2.3 + b))) for x in xs])
        path.lineTo(136, 136)
        path.lineTo(-8, 136)
        path.close()
        return path


ALL = box(0, 0, SIDE, SIDE)


def sky(b, top=(126, 190, 240), bottom=(218, 238, 250)):
    b.ramp(ALL, top, bottom, 0, 90)


def cloud(b, x, y, k, color=(255, 255, 255)):
    for dx, dy, r in ((-11, 2, 6), (-3, -2, 9), (8, 0, 7.5), (15, 3, 5)):
        b.fill(oval(x + dx * k, y + dy * k, r * k), color, 235)
    b.fill(box(x - 16 * k, y + 1 * k, x + 19 * k, y + 8 * k, 4 * k), color, 235)


def sun(b, x, y, r=10):
    b.glow(x, y, r * 2.4, (255, 244, 190), 210)
    b.fill(oval(x, y, r), (255, 236, 140))


def beach(b):
    sky(b)
    sun(b, b.between(14, 30), b.between(14, 22), 9)
    h = b.between(48, 56)
    b.ramp(box(0, h, 128, 128), (42, 146, 204), (112, 214, 220), h, h + 26)
    shore = b.hills(h + 22, 2.5, 3)
    b.canvas.save(), b.canvas.translate(0, -3.5), b.fill(shore, (255, 255, 255)), b.canvas.restore()
    b.ramp(shore, (250, 226, 164), (238, 204, 132), h + 18, 128)


def snow(b):
    b.ramp(ALL, (168, 198, 232), (224, 236, 248), 0, 80)
    b.fill(b.hills(58, 5, 2), (226, 236, 248))
    for x in (b.between(4, 18), b.between(106, 122)):
        y = b.between(64, 72)
        for i, (w, dy) in enumerate(((9, 0), (12, 9), (15, 18))):
            b.fill(poly((x, y - 32 + dy * 0.9), (x - w, y - 14 + dy), (x + w, y - 14 + dy)), (92, 142, 128))
            b.fill(poly((x, y - 32 + dy * 0.9), (x - w * 0.5, y - 23 + dy), (x + w * 0.5, y - 23 + dy)), (240, 246, 252))
    b.ramp(b.hills(76, 3, 2), (252, 253, 255), (222, 232, 246), 76, 128)
    for _ in range(26):
        b.fill(oval(b.between(0, 128), b.between(0, 128), b.between(1.1, 2.1)), (255, 255, 255))


def meadow(b):
    sky(b)
    cloud(b, b.between(20, 60), b.between(14, 24), 0.8), cloud(b, b.between(80, 112), b.between(20, 34), 0.6)
    b.ramp(b.hills(58, 5, 2), (156, 208, 110), (132, 190, 92), 54, 90)
    b.ramp(b.hills(74, 3, 3), (134, 198, 88), (92, 164, 66), 72, 128)
    for _ in range(16):
        x, y = b.between(2, 126), b.between(82, 126)
        for dx in (-2, 0, 2):
            b.line(curve((x + dx * 0.4, y), (x + dx, y - 5)), (78, 146, 58), 1.3)


def garden(b):
    b.ramp(ALL, (178, 220, 150), (116, 180, 96))
    tints = ((240, 110, 130), (252, 214, 90), (250, 250, 250), (176, 130, 220), (250, 160, 90))
    for j, y in enumerate(range(8, 134, 26)):
        for x in range(-13 + 13 * (j % 2), 146, 26):
            x1, y1, c = x + b.between(-3, 3), y + b.between(-3, 3), tints[int(b.rng.integers(5))]
            b.line(curve((x1, y1), (x1 + 1, y1 + 12)), (84, 148, 74), 2)
            for q in star(x1, y1, 4.8, 1, 3):
                b.fill(oval(*q, 3.4), c)
            b.fill(oval(x1, y1, 2.8), (255, 226, 120) if c[2] > 110 else (255, 255, 255))


def forest(b):
    b.ramp(ALL, (196, 222, 178), (120, 168, 112), 0, 100)
    for layer, c, trunk in ((0, (132, 176, 122), (150, 132, 108)), (1, (84, 138, 86), (122, 92, 66))):
        for x in range(10 if layer else -4, 134, 27):
            x += b.between(-4, 4)
            w = 5 + 2.5 * layer
            b.fill(box(x - w / 2, 20, x + w / 2, 92 + 8 * layer, 1), trunk)
            b.fill(oval(x, 14 + 8 * layer, 15 + 2 * layer, 20), c)
    b.ramp(b.hills(94, 2, 2), (118, 158, 84), (82, 124, 62), 92, 128)


def desert(b):
    sky(b, (255, 214, 150), (255, 240, 206))
    sun(b, b.between(94, 112), b.between(16, 24), 10)
    for y, c in ((56, (240, 192, 122)), (70, (230, 170, 98)), (90, (218, 150, 80))):
        b.fill(b.hills(y, 5, 2), c)
    x, y = b.between(10, 18), b.between(70, 76)
    for path in (curve((x, y), (x, y - 30)), curve((x - 8, y - 22), (x - 8, y - 14), (x, y - 12)), curve((x + 8, y - 26), (x + 8, y - 18), (x, y - 15))):
        b.line(path, (92, 150, 92), 5)


def mountains(b):
    sky(b)
    for x, top, w, c in ((b.between(20, 40), 22, 48, (150, 168, 200)), (b.between(88, 108), 18, 52, (150, 168, 200)), (b.between(56, 72), 32, 44, (126, 146, 184))):
        b.fill(poly((x, top), (x - w, 100), (x + w, 100)), c)
        b.fill(poly((x, top), (x + w, 100), (x + w * 0.2, 100)), mix(c, (60, 76, 130), 0.22))
        b.fill(poly((x, top), (x - w * 0.28, top + 22), (x - w * 0.1, top + 17), (x + 1, top + 25), (x + w * 0.12, top + 17), (x + w * 0.28, top + 22)), (250, 252, 255))
    b.ramp(b.hills(84, 3, 2), (136, 184, 116), (98, 152, 84), 82, 128)


def city(b):
    sky(b, (176, 206, 236), (250, 232, 214))
    x = -b.between(0, 10)
    while x < SIDE:
        w, top = 24 + 4 * int(b.rng.integers(3)), b.between(18, 58)
        c = [(134, 150, 184), (158, 150, 178), (174, 152, 156), (116, 132, 168)][int(b.rng.integers(4))]
        b.fill(box(x, top, x + w - 1.5, 110), c)
        n = int(w // 12)
        for y in np.arange(top + 6, 96, 15):
            for i in range(n):
                left = x + (w - 12 * n) / 2 + 12 * i + 2
                b.fill(box(left, y, left + 7.5, y + 8.5), (255, 238, 176))
        x += w
    b.fill(box(0, 100, 128, 128), (138, 142, 152))
    for x in range(-6, 128, 32):
        b.fill(box(x, 113, x + 18, 116), (240, 240, 236))


def night(b):
    b.ramp(ALL, (22, 30, 84), (70, 92, 164))
    for _ in range(26):
        b.fill(oval(b.between(2, 126), b.between(2, 100), b.between(0.8, 1.9)), (255, 252, 220))
    x, y = (18, 20) if b.rng.random() < 0.5 else (110, 20)
    b.glow(x, y, 28, (255, 246, 200), 120)
    b.fill(oval(x, y, 11), (252, 244, 200))
    b.fill(oval(x + 5, y - 3, 9), (40, 52, 116))
    b.fill(b.hills(108, 4, 2), (22, 36, 70))


def space(b):
    b.ramp(ALL, (38, 16, 70), (22, 12, 52))
    for c in ((190, 70, 190), (70, 110, 230), (230, 100, 150)):
        for _ in range(2):
            b.glow(b.between(10, 118), b.between(10, 118), b.between(34, 56), c, 130)
    for _ in range(30):
        b.fill(oval(b.between(2, 126), b.between(2, 126), b.between(0.7, 1.7)), (255, 255, 245))
    x, y, r = b.between(104, 114), b.between(14, 24), 12
    b.fill(oval(x, y, r), (240, 176, 96))
    b.fill(oval(x - 3, y - 3, r * 0.6), (250, 204, 136))
    b.canvas.save(), b.canvas.translate(x, y), b.canvas.rotate(-20)
    b.line(oval(0, 0, r * 1.6, r * 0.42), (250, 226, 180), 2.4)
    b.canvas.restore()


def underwater(b):
    b.ramp(ALL, (112, 212, 232), (26, 106, 178))
    for x in (20, 58, 100):
        x += b.between(-10, 10)
        b.fill(poly((x, -4), (x + 12, -4), (x - 14, 128), (x - 34, 128)), (255, 255, 255), 28)
    for x in (b.between(6, 14), b.between(18, 24), b.between(108, 122)):
        h = b.between(34, 52)
        b.line(curve((x, 128), (x + 4, 122 - h * 0.3), (x - 4, 122 - h * 0.65), (x + 2, 122 - h)), (52, 150, 110), 4.5)
    b.ramp(b.hills(114, 2.5, 2), (236, 214, 156), (206, 178, 120), 112, 128)
    for _ in range(9):
        x, y, r = b.between(4, 124), b.between(6, 100), b.between(2, 4)
        b.line(oval(x, y, r), (230, 250, 255), 1.3)


def sunset(b):
    h = b.between(84, 92)
    b.ramp(ALL, (146, 92, 178), (255, 178, 96), 0, h)
    x = b.between(30, 98)
    b.glow(x, h - 8, 60, (255, 226, 140), 200)
    b.fill(oval(x, h - 8, 18), (255, 242, 178))
    b.ramp(box(0, h, 128, 128), (196, 104, 126), (92, 54, 116))
    for i in range(4):
        w = b.between(9, 20)
        b.line(curve((x - w, h + 6 + 9 * i), (x + w, h + 6 + 9 * i)), (255, 222, 150), 2.4, 210)


def clouds(b):
    b.ramp(ALL, (112, 184, 240), (190, 226, 250))
    for x, y, k in ((20, 24, 1.2), (102, 18, 1.0), (64, 54, 1.0), (8, 76, 1.1), (116, 82, 1.2), (36, 112, 1.4), (92, 120, 1.3)):
        cloud(b, x + b.between(-8, 8), y + b.between(-6, 6), k)


def wooden_floor(b):
    off = b.between(0, 20)
    for i in range(-1, 8):
        x, tone = i * 20 + off, b.between(-0.1, 0.12)
        c = mix((208, 156, 102), (120, 74, 40) if tone < 0 else (246, 214, 160), abs(tone) * 2)
        b.fill(box(x, 0, x + 20, 128), c)
        for _ in range(2):
            gx = x + b.between(4, 14)
            b.line(curve((gx, -4), (gx + b.between(-2, 2), 60), (gx, 132)), mix(c, (120, 74, 40), 0.35), 1)
        y = b.between(0, 128)
        b.line(curve((x, y), (x + 20, y)), (138, 90, 52), 1.8)
        b.line(curve((x, 0), (x, 128)), (138, 90, 52), 2.2)


def brick_wall(b):
    b.fill(ALL, (222, 210, 198))
    ox, oy = b.between(0, 32), b.between(0, 16)
    for j in range(-1, 9):
        for i in range(-2, 5):
            x, y, t = i * 32 + ox + (16 if j % 2 else 0), j * 16 + oy, b.between(0, 0.28)
            b.fill(box(x, y, x + 29.5, y + 13.5, 1.5), mix((202, 112, 92), (168, 80, 66), t * 2.4))


def tiles(b):
    c = [((176, 214, 226), (242, 248, 250)), ((240, 206, 150), (252, 246, 232)), ((190, 214, 176), (246, 250, 242))][int(b.rng.integers(3))]
    ox, oy = b.between(0, 48), b.between(0, 48)
    for j in range(-2, 6):
        for i in range(-2, 6):
            x, y = i * 24 + ox, j * 24 + oy
            b.fill(box(x, y, x + 24, y + 24), c[(i + j) % 2])
            b.line(box(x, y, x + 24, y + 24), (206, 212, 212), 1.4)


def library(b):
    b.fill(ALL, (120, 82, 56))
    tints = ((196, 96, 88), (104, 142, 180), (214, 182, 110), (118, 158, 118), (160, 124, 168), (228, 220, 200), (204, 140, 96))
    for j in range(3):
        y, x = 44 * j + 36, 1 - b.between(0, 8)
        while x < 128:
            w, h = b.between(11, 16), b.between(27, 34)
            c = tints[int(b.rng.integers(7))]
            b.fill(box(x, y - h, x + w - 1.2, y, 1), c)
            b.fill(box(x, y - h + 5, x + w - 1.2, y - h + 10), mix(c, (255, 250, 230), 0.5))
            x += w
        b.fill(box(0, y, 128, y + 8), (176, 126, 84))
        b.fill(box(0, y + 6, 128, y + 8), (96, 62, 42))


def stage(b):
    b.fill(ALL, (176, 52, 66))
    off = b.between(0, 20)
    for x in np.arange(-20, 130, 20) + off:
        shader = skia.GradientShader.MakeLinear([(x, 0), (x + 20, 0)], [color4((120, 28, 46)), color4((212, 84, 92)), color4((120, 28, 46))])
        b.canvas.drawRect(skia.Rect(x, 0, x + 20, 100), skia.Paint(Shader=shader))
    b.ramp(box(0, 98, 128, 128), (206, 160, 108), (168, 120, 74))
    for y in (106, 115, 124):
        b.line(curve((0, y), (128, y)), (150, 104, 64), 1.2)
    for x in range(0, 129, 32):
        b.fill(oval(x + 16, 0, 18, 13), (150, 36, 54))
        b.line(oval(x + 16, 0, 18, 13), (244, 206, 110), 2)


PLAIN = {"white": (250, 250, 250), "yellow": (252, 224, 120), "blue": (128, 178, 236), "pink": (250, 196, 212), "green": (152, 208, 148), "gray": (176, 178, 184)}


def plain(name):
    return lambda b: b.ramp(ALL, PLAIN[name], mix(PLAIN[name], (60, 60, 80), 0.1))


# name -> (painter, caption phrases, share, stands)
BACKGROUNDS = {
    "beach": (beach, ["at the beach", "on the beach", "on a beach"], 1, True),
    "snow": (snow, ["in the snow", "in a snowy landscape"], 1, True),
    "meadow": (meadow, ["in a meadow", "on the grass", "on green grass"], 1, True),
    "garden": (garden, ["in a garden", "among flowers", "in a flower garden"], 1, False),
    "forest": (forest, ["in the forest", "in the woods", "in a forest"], 1, True),
    "desert": (desert, ["in the desert", "in a desert"], 1, True),
    "mountains": (mountains, ["in the mountains", "with mountains in the background"], 1, True),
    "city": (city, ["in the city", "in front of a city skyline", "with a city in the background"], 1, True),
    "night": (night, ["at night", "under the night sky", "with stars in the night sky"], 1, True),
    "space": (space, ["in space", "in outer space", "in a galaxy"], 1, False),
    "underwater": (underwater, ["under water", "in the ocean", "at the bottom of the sea"], 1, True),
    "sunset": (sunset, ["at sunset", "with a sunset in the background"], 1, True),
    "clouds": (clouds, ["in the clouds", "in the sky"], 1, False),
    "wooden_floor": (wooden_floor, ["on a wooden floor", "on top of a wooden floor"], 1, False),
    "brick_wall": (brick_wall, ["in front of a brick wall", "with a brick wall in the background"], 1, False),
    "tiles": (tiles, ["on a tiled floor", "in front of kitchen tiles"], 1, False),
    "library": (library, ["in a library", "in front of a bookshelf"], 1, False),
    "stage": (stage, ["on a stage", "in front of a red curtain"], 1, True),
}
for _c in PLAIN:
    BACKGROUNDS["plain_" + _c] = (plain(_c), [f"on a {_c} background", f"on a plain {_c} background"], 1 if _c == "white" else 0.35, True)


@lru_cache(None)
def backdrop(name, variant):
    """A place, float32 RGB in 0..1; the same for the same variant (below VARIANTS)."""
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    canvas = skia.Surface(pixels, skia.kRGBA_8888_ColorType).getCanvas()
    BACKGROUNDS[name][0](Brush(canvas, np.random.default_rng([variant, *name.encode()])))
    image = pixels[..., :3].astype(np.float32) / 255
    image.flags.writeable = False
    return image
