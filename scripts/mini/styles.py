"""The nameable styles: filters of the finished picture (float32 RGB 0..1, 128 x 128).

Each leaves shapes and patterns readable, and all but the colourless ones leave the colours nameable. What repeats
(grids, strokes, tiles) is the same in every picture.
"""
import cv2
import numpy as np

cv2.setNumThreads(1)
SIDE = 128
f32 = np.float32
YY, XX = np.mgrid[0:SIDE, 0:SIDE].astype(f32)
_rng = np.random.default_rng(7)


def rgb(*v):
    return np.array(v, f32) / 255


def mix(a, b, m):
    return a + (b - a) * (m[..., None] if getattr(m, "ndim", 0) == 2 else m)


def gray(im):
    return im @ np.array([0.3, 0.59, 0.11], f32)


def saturate(im, k):
    g = gray(im)[..., None]
    return np.clip(g + (im - g) * k, 0, 1)


def blur(im, s):
    return cv2.GaussianBlur(im, (0, 0), s)


def noise(cells):
    return np.clip(cv2.resize(_rng.random((cells, cells)).astype(f32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), 0, 1)


def kuwahara(im, r):
    """Edge-keeping smoothing: every pixel takes the mean of its calmest quadrant."""
    k, h = r + 1, (r + 1) // 2
    im = cv2.copyMakeBorder(im, h, h, h, h, cv2.BORDER_REFLECT_101)
    mean = cv2.blur(im, (k, k))
    var = (cv2.blur(im * im, (k, k)) - mean * mean).sum(-1)
    out, best = None, None
    for y, x in ((0, 0), (0, 2 * h), (2 * h, 0), (2 * h, 2 * h)):
        v, m = var[y : y + SIDE, x : x + SIDE], mean[y : y + SIDE, x : x + SIDE]
        if out is None:
            out, best = m, v
        else:
            better = v < best
            out, best = np.where(better[..., None], m, out), np.where(better, v, best)
    return out


def edges(im, k=1.0):
    """Strength of the outlines, in 0..1."""
    small = blur(im, 0.7)
    dx, dy = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    return np.clip(k * np.sqrt((dx * dx + dy * dy).max(-1)), 0, 1)


def cell_means(im, labels):
    flat, n = labels.ravel(), int(labels.max()) + 1
    count = np.maximum(np.bincount(flat, minlength=n), 1)[:, None]
    return (np.stack([np.bincount(flat, im[..., c].ravel(), n) for c in range(3)], 1) / count).astype(f32)


def streamlines(angle, steps, pace):
    """Remap tables that follow the direction field `angle` both ways."""
    tables = []
    for sign in (1, -1):
        x, y = XX.copy(), YY.copy()
        for _ in range(steps):
            a = angle[np.clip(y.round().astype(int), 0, SIDE - 1), np.clip(x.round().astype(int), 0, SIDE - 1)]
            x, y = x + sign * pace * np.cos(a), y + sign * pace * np.sin(a)
            tables.append((x.astype(f32), y.astype(f32)))
    return tables


def smear(im, tables):
    out = im.copy()
    for x, y in tables:
        out += cv2.remap(im, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return out / (len(tables) + 1)


def relief(tables, cells):
    t = smear(noise(cells), tables)
    t = t - blur(t, 6)
    return np.clip(t / (2 * t.std()), -1, 1)[..., None]


def voronoi(step, wobble):
    """Irregular tiles -> (labels, distance in pixels to the nearest seam)."""
    n = SIDE // step
    j, i = np.mgrid[0:n, 0:n].astype(f32)
    px = (i + 0.5 + _rng.uniform(-wobble, wobble, (n, n))) * step
    py = (j + 0.5 + _rng.uniform(-wobble, wobble, (n, n))) * step
    d = np.hypot(XX[..., None] - px.ravel(), YY[..., None] - py.ravel())
    two = np.partition(d, 1, -1)[..., :2]
    return d.argmin(-1), (two[..., 1] - two[..., 0]) / 2


DIAGONAL = streamlines(np.pi / 4 + 0.5 * np.sin(XX / 21 + YY / 33), 4, 1.5)
DIAGONAL_RELIEF = relief(DIAGONAL, 48)


def oil(im):
    im = kuwahara(smear(im, DIAGONAL[::4]), 3)
    return saturate(im, 1.3) - 0.02 + 0.09 * DIAGONAL_RELIEF


def _swirls():
    angle = 0.3 * np.sin(XX / 17) + 0.4 * np.sin(YY / 23)
    for x, y, s in ((30, 28, 1), (98, 38, -1), (62, 96, 1), (8, 108, -1), (122, 112, 1)):
        w = np.exp(-((np.hypot(XX - x, YY - y) / 26) ** 2))
        angle = angle * (1 - w) + w * (np.arctan2(YY - y, XX - x) + s * np.pi / 2)
    return streamlines(angle, 5, 1.6)


SWIRL = _swirls()
SWIRL_RELIEF = relief(SWIRL, 42)


def van_gogh(im):
    im = smear(im, SWIRL[:1] + SWIRL[5:6])
    g = gray(im)[..., None]
    night = np.where(g < 0.55, mix(rgb(12, 26, 96), rgb(56, 118, 200), g / 0.55), mix(rgb(56, 118, 200), rgb(255, 226, 104), (g - 0.55) / 0.45))
    return mix(saturate(im, 1.45), night, 0.28) + 0.17 * SWIRL_RELIEF


EDGE = np.minimum(np.minimum(XX, YY), np.minimum(SIDE - 1 - XX, SIDE - 1 - YY))
WASH = np.clip((EDGE - 2 - 12 * noise(9)) / 5, 0, 1)
TONE = noise(7)[..., None] - 0.5
PAPER = blur(_rng.normal(0, 1, (SIDE, SIDE)).astype(f32), 0.8)[..., None]


def watercolor(im):
    im = kuwahara(blur(im, 0.8), 3)
    g = gray(im)
    rim = np.clip(np.abs(g - blur(g, 1.8)) * 2.6, 0, 0.28)[..., None]
    im = 1 - (1 - saturate(im, 1.25)) * (0.7 + 0.34 * TONE) - rim
    return mix(np.full_like(im, 0.985), im, WASH) + 0.02 * PAPER


HATCH = (0.5 + 0.5 * np.sin((XX + YY) * (2 * np.pi / 8)))


def sketch(im):
    g = gray(im)
    lines = 1 - np.clip(edges(im, 0.6) * 1.4 - 0.2, 0, 0.8)
    tone = 1 - np.clip(0.78 - blur(g, 0.8), 0, 0.6) * 0.85 * (0.35 + 0.65 * HATCH)
    return np.repeat((np.minimum(lines, tone) * 0.97 + 0.015 * PAPER[..., 0])[..., None], 3, 2)


def pixel_art(im):
    small = cv2.resize(saturate(im, 1.25), (32, 32), interpolation=cv2.INTER_AREA)
    small = np.clip(small + 0.35 * (small - blur(small, 1.0)), 0, 1)
    return cv2.resize(np.round(small * 6) / 6, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)


TILES, SEAM = voronoi(6, 0.22)
TILE_TONE = _rng.uniform(-0.07, 0.07, (int(TILES.max()) + 1, 1)).astype(f32)
GROUT = np.clip(0.85 - SEAM, 0, 1)


def mosaic(im):
    c = saturate(cell_means(im, TILES), 1.5) + TILE_TONE
    return mix(c[TILES], rgb(244, 238, 226), GROUT)


DOT = np.hypot((XX + 0.5) % 8 - 4, (YY + 0.5) % 8 - 4)
DOT = np.minimum(DOT, np.hypot((XX + 4.5) % 8 - 4, (YY + 4.5) % 8 - 4))


def pop_art(im):
    """Comic print: flat bright inks, thick black outlines, halftone in the shade."""
    smooth = kuwahara(im, 3)
    flat = np.round(saturate(smooth, 1.8) * 4) / 4
    g = gray(smooth)
    dots = np.clip((0.66 - g) * 5.2 - DOT + 1.1, 0, 1)
    flat = mix(flat * 0.9 + 0.1, flat * 0.55, 0.75 * dots)
    return mix(flat, rgb(16, 12, 22), np.clip(edges(smooth, 1.1) * 2.4 - 0.8, 0, 1))


def neon(im):
    e = np.clip(edges(kuwahara(im, 2), 0.8) * 1.9 - 0.75, 0, 1)[..., None]
    hue = saturate(im, 2.2) + 0.05
    hue = cv2.dilate(hue / hue.max(-1, keepdims=True), np.ones((3, 3), np.uint8))
    glow = blur(e * hue, 3.5)
    return rgb(14, 8, 34) + 0.34 * saturate(im, 1.6) * rgb(190, 170, 230) + 0.95 * e * hue + 0.75 * glow


VIGNETTE = np.clip(1.12 - (np.hypot(XX - 64, YY - 64) / 105) ** 2 * 0.5, 0, 1)[..., None]


def sepia(im):
    g = np.clip((gray(im) - 0.5) * 1.15 + 0.52, 0, 1)[..., None]
    return mix(rgb(52, 26, 10), rgb(255, 230, 182), g) * VIGNETTE + 0.015 * PAPER


# name -> (filter, caption templates; {} is "a dog on the beach", {n} the same without article; keeps colours?)
STYLES = {
    "oil": (oil, ["an oil painting of {}", "oil painting of {}", "{n} in oil painting style"], True),
    "van_gogh": (van_gogh, ["{} in van gogh style", "a van gogh painting of {}", "{n} in van gogh style"], True),
    "watercolor": (watercolor, ["a watercolor of {}", "a watercolor painting of {}", "{n} in watercolor style"], True),
    "sketch": (sketch, ["a pencil sketch of {}", "a pencil drawing of {}", "{n} in sketch style"], False),
    "pixel_art": (pixel_art, ["pixel art of {}", "{n} in pixel art style", "pixel art {n}"], True),
    "mosaic": (mosaic, ["a mosaic of {}", "{} as a mosaic", "{n} in mosaic style"], True),
    "pop_art": (pop_art, ["pop art of {}", "{n} in pop art style", "a comic book panel with {}"], True),
    "neon": (neon, ["a neon sign of {}", "{n} in neon style", "neon art of {}"], True),
    "sepia": (sepia, ["a sepia photo of {}", "an old photo of {}", "{n} in sepia"], False),
}


def apply_style(image, style):
    image = np.ascontiguousarray(np.clip(image, 0, 1), f32)
    return np.clip(STYLES[style][0](image), 0, 1).astype(f32) if style else image
