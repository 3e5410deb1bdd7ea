"""The drawings of the live ones; see things.py."""
from art import DARK, WHITE, blob, box, curve, mix, oval, rounded

SKIN = (250, 160, 175)  # tongues, inner ears
INK = (44, 36, 46)


def eye(p, x, y, r):
    dx, dy = p.pose["look"]
    if p.pose["blink"]:
        p.mark(oval(x, y, r, r), p.main)
        p.stroke(curve((x - r * 0.8, y), (x, y + r * 0.6), (x + r * 0.8, y)), INK, 2.2)
        return
    p.part(oval(x, y, r, r * 1.06), WHITE, shade=None, line=1.2)
    p.mark(oval(x + dx * r * 0.25, y + dy * r * 0.25, r * 0.7, r * 0.76), INK)
    p.mark(oval(x + dx * r * 0.25 - r * 0.22, y + dy * r * 0.25 - r * 0.28, r * 0.26), WHITE)


def muzzle_color(p):
    return mix(p.second, WHITE, 0.5)


def mouth(p, x, y, w):
    open_ = p.pose["mouth"]
    if open_ > 0.35:
        p.part(blob((x - w * 0.6, y), (x + w * 0.6, y), (x, y + 2.2 * w * open_)), (150, 40, 60), shade=None, line=1.2)
        p.mark(oval(x, y + 1.5 * w * open_, w * 0.32, w * 0.4 * open_), SKIN)
    p.stroke(curve((x - w, y - 1), (x - w / 2, y + 1.6), (x, y), (x + w / 2, y + 1.6), (x + w, y - 1)), INK, 1.7)


def sitting(p, fat=1.0):
    """Body, arms and feet of a plush animal, seen from the front."""
    w = 23 * fat
    for s in (-1, 1):
        p.part(oval(s * 15 * fat, 42, 11, 6.5), mix(p.main, WHITE, 0.12))
    p.part(blob((0, -2), (w * 0.72, 6), (w, 26), (w * 0.62, 43), (0, 46), (-w * 0.62, 43), (-w, 26), (-w * 0.72, 6)), p.main, pattern=True)
    if p.plain:
        p.part(oval(0, 28, w * 0.62, 14), muzzle_color(p), line=0)
    for s in (-1, 1):
        with p.turned(-s * (16 + 12 * p.pose["arms"]), s * w * 0.82, 12):
            p.part(oval(s * w * 0.9, 21, 6.6, 12), mix(p.main, WHITE, 0.06))


def scarf(p, y=9, w=17):
    kind = p.shape["wears"]
    if kind == "scarf":
        p.part(rounded([(5, y), (15, y), (18, y + 21), (8, y + 22)], 2), p.accent, shade="flat")
        p.part(box(-w - 1, y - 5, w + 1, y + 5, 5), p.accent, shade="flat")
    elif kind == "bow":
        for s in (-1, 1):
            p.part(rounded([(0, y), (s * 16, y - 8), (s * 16, y + 9)], 3), p.accent, shade="flat")
        p.part(oval(0, y, 4.2, 4.8), p.accent)
    else:
        p.part(box(-w, y - 3, w, y + 3.4, 3), p.accent, shade="flat")
        p.part(oval(0, y + 6, 4.4), (250, 208, 80))


def face_of(p, w=32, h=26, y=-16):
    """The head; the pattern leaves the middle of the face free."""
    p.part(blob((0, y - h), (w * 0.72, y - h * 0.74), (w, y + 2), (w * 0.66, y + h * 0.8), (0, y + h), (-w * 0.66, y + h * 0.8), (-w, y + 2), (-w * 0.72, y - h * 0.74)), p.main, pattern=True)
    if not p.plain:
        p.mark(oval(0, y + h * 0.2, w * 0.66, h * 0.62), mix(p.main, WHITE, 0.1))


def blush(p, x, y):
    for s in (-1, 1):
        p.mark(oval(s * x, y, 4.6, 2.8), (250, 110, 130), 110)


def dog(p):
    wag = p.pose["tail"]
    p.tube(curve((16, 36), (30, 34), (38, 24), (40 + 3 * wag, 12 - 3 * wag)), 8, p.main)
    sitting(p, p.shape["fat"])
    scarf(p)
    with p.turned(p.pose["tilt"], 0, 4):
        k = p.shape["ear length"]
        if p.shape["ears"] == "upright":
            for s in (-1, 1):
                p.part(rounded([(s * 8, -36), (s * 24, -40 - 10 * k), (s * 31, -22)], 5), p.second)
        face_of(p, 31, 25)
        if p.shape["ears"] == "floppy":
            for s in (-1, 1):
                p.part(blob((s * 17, -37), (s * 30, -33), (s * 39, -12), (s * 37, -8 + 16 * k), (s * 28, -8 + 15 * k), (s * 25, -18)), p.second)
        elif p.shape["ears"] == "folded":
            for s in (-1, 1):
                p.part(rounded([(s * 9, -40), (s * 27, -44), (s * 36, -22 + 8 * k), (s * 23, -24)], 5), p.second)
        eye(p, -12, -18, 6.8), eye(p, 12, -18, 6.8)
        p.part(oval(0, -3, 14.5, 11), muzzle_color(p))
        if p.pose["mouth"] > 0.35:
            p.part(blob((-5, 2), (5, 2), (4.4, 11), (0, 13.5), (-4.4, 11)), (240, 92, 110), shade=None, line=1.2)
        p.stroke(curve((-7, 1), (-3, 3.4), (0, 1), (3, 3.4), (7, 1)), INK, 1.7)
        p.part(blob((-6, -9), (6, -9), (0, -2)), INK, line=0)
        p.mark(oval(-1.8, -8, 1.6, 1), WHITE, 170)


def cat(p):
    wag = p.pose["tail"]
    p.tube(curve((14, 38), (34, 40), (43, 24), (38 + 4 * wag, 6), (44 + 3 * wag, -4)), 7.5, p.main)
    sitting(p, p.shape["fat"])
    scarf(p)
    with p.turned(p.pose["tilt"], 0, 4):
        k = p.shape["ear length"]
        for s in (-1, 1):
            tip = (s * 29, -41 - 9 * k) if p.shape["ears"] == "pointed" else (s * 36, -36 - 8 * k)
            p.part(rounded([(s * 3, -37), tip, (s * 33, -16)], 3), p.main)
            inner = [(s * 11, -36), (tip[0] * 0.93, tip[1] + 6.5), (s * 28, -24)]
            p.part(rounded(inner, 2), mix(p.second, SKIN, 0.3), shade=None, line=0)
        face_of(p, 32, 23, -15)
        eye(p, -13, -18, 7), eye(p, 13, -18, 7)
        p.part(oval(-5, -3.5, 7.5, 6), muzzle_color(p), shade=None, line=0)
        p.part(oval(5, -3.5, 7.5, 6), muzzle_color(p), shade=None, line=0)
        mouth(p, 0, -4, 5.5)
        p.part(blob((-4, -10), (4, -10), (0, -5.4)), (238, 110, 130), line=1)
        for s in (-1, 1):
            for y, dy in ((-7, -3), (-3, 2)):
                p.stroke(curve((s * 15, y), (s * 37, y + dy)), mix(INK, WHITE, 0.15), 1.4)


def rabbit(p):
    sitting(p, p.shape["fat"])
    scarf(p, 11)
    with p.turned(p.pose["tilt"], 0, 4):
        k = p.shape["ear length"]
        for s in (-1, 1):
            if p.shape["ears"] == "lop":
                p.part(blob((s * 12, -31), (s * 27, -30), (s * 39, -10), (s * 40, 8 + 10 * k), (s * 32, 10 + 10 * k), (s * 27, -6)), p.main)
                p.part(blob((s * 29, -20), (s * 35, -8), (s * 36, 4 + 8 * k), (s * 32, -4)), mix(p.second, SKIN, 0.3), line=0, shade=None)
                continue
            with p.turned(s * (8 + 3 * p.pose["tail"]), s * 11, -26):
                top = -37 - 12 * k
                p.part(blob((s * 11, top), (s * 17.5, -38), (s * 16, -22), (s * 6, -22), (s * 4.5, -38)), p.main)
                p.part(blob((s * 11, top + 5), (s * 14.2, -36), (s * 11, -23), (s * 8, -36)), mix(p.second, SKIN, 0.3), line=0, shade=None)
                if p.shape["ears"] == "bent" and s == 1:
                    p.part(blob((5, -42), (17, -42), (28, -34), (25, -28), (16, -34)), p.main)
        face_of(p, 28, 20, -11)
        eye(p, -12, -15, 6.6), eye(p, 12, -15, 6.6)
        p.part(oval(-5, -1, 7.5, 6), muzzle_color(p), shade=None, line=0)
        p.part(oval(5, -1, 7.5, 6), muzzle_color(p), shade=None, line=0)
        p.part(box(-3.6, 0, 3.6, 6.6, 1.5), WHITE, shade=None, line=1.2)
        p.stroke(curve((0, 1), (0, 6)), INK, 1)
        p.stroke(curve((-6, -1), (-3, 1), (0, -1), (3, 1), (6, -1)), INK, 1.7)
        p.part(blob((-4, -7), (4, -7), (0, -2.6)), (238, 110, 130), line=1)
        blush(p, 19, -4)


def bear(p):
    sitting(p, p.shape["fat"] * 1.08)
    p.part(oval(0, 29, 14, 13), muzzle_color(p))
    scarf(p)
    with p.turned(p.pose["tilt"], 0, 4):
        r = 9.5 + 4 * p.shape["ear length"]
        spread = 24 if p.shape["ears"] == "wide" else 19
        for s in (-1, 1):
            p.part(oval(s * spread, -34, r), p.main)
            p.part(oval(s * spread, -34, r * 0.55), p.second, line=0)
        face_of(p, 31, 25, -16)
        eye(p, -12.5, -20, 6.2), eye(p, 12.5, -20, 6.2)
        p.part(oval(0, -5, 14, 10.5), muzzle_color(p))
        mouth(p, 0, -1, 5)
        p.part(oval(0, -9.5, 6, 4.2), INK, line=0)
        p.mark(oval(-1.8, -10.6, 1.8, 1), WHITE, 170)


def bird(p):
    fat, wag = p.shape["fat"], p.pose["tail"]
    orange = (246, 160, 50) if p.shape["beak"] != "flat" else (250, 200, 60)
    for x in (-5, 8):
        p.tube(curve((x, 34), (x + 1, 45)), 2.6, orange, 1)
        p.stroke(curve((x - 4, 46), (x + 1, 44.5), (x + 7, 46)), p.outline(orange), 4.2)
        p.stroke(curve((x - 4, 46), (x + 1, 44.5), (x + 7, 46)), orange, 2.4)
    with p.turned(-6 * wag, -26, 14):
        p.part(rounded([(-24, 6), (-48, -6), (-46, 6), (-49, 14), (-43, 20), (-22, 24)], 3), p.second)
    p.part(blob((0, -14), (24 * fat, -4), (30 * fat, 16), (16, 36), (-12, 37), (-30 * fat, 22), (-26 * fat, 0)), p.main, pattern=True)
    if p.shape["crest"] == "tuft":
        for a in (-18, 4, 26):
            with p.turned(a, 12, -34):
                p.part(blob((12, -50), (15, -40), (12, -32), (9, -40)), p.accent)
    elif p.shape["crest"] == "comb":
        p.part(blob((2, -37), (3, -45), (9, -42), (13, -48), (18, -43), (24, -44), (24, -34)), p.accent)
    with p.turned(p.pose["tilt"] * 0.7, 12, -6):
        tip = {"long": 50, "short": 43, "flat": 46}[p.shape["beak"]]
        drop = 6 if p.shape["beak"] == "flat" else 0
        if p.pose["mouth"] > 0.35:
            p.part(rounded([(28, -17), (tip - 4, -9 + drop / 2), (28, -10)], 1.5), mix(orange, DARK, 0.2))
        p.part(rounded([(28, -25), (tip, -17 + drop / 2), (tip - 1, -14 + drop), (28, -13)], 2.2), orange)
        p.part(oval(13, -20, 21, 19), p.main)
        p.part(oval(22, -10, 8, 6), muzzle_color(p), line=0, shade=None)
        eye(p, 18, -23, 6.4)
    with p.turned(10 - 16 * p.pose["arms"], -2, 8):
        p.part(blob((2, 4), (12, 14), (2, 26), (-22, 26), (-34, 20), (-18, 10)), p.second)
        p.stroke(curve((-24, 21), (-10, 19)), p.outline(p.second), 1.3)


def fish(p):
    fat, wag = p.shape["fat"], p.pose["tail"]
    h = 27 * fat
    with p.turned(5 * wag, -24, 0):
        if p.shape["tail"] == "forked":
            p.part(blob((-22, -5), (-36, -18), (-49, -25), (-42, -4), (-41, 4), (-49, 25), (-36, 18), (-22, 5)), p.second)
        else:
            p.part(blob((-22, -6), (-36, -20), (-47, -20), (-49, 0), (-47, 20), (-36, 20), (-22, 6)), p.second)
        p.stroke(curve((-30, 0), (-42, 0)), p.outline(p.second), 1.3)
    if p.shape["fin"] == "sail":
        p.part(blob((-18, -h * 0.6), (-16, -h - 16), (0, -h - 13), (20, -h * 0.8)), p.accent)
    else:
        p.part(blob((-14, -h * 0.7), (-8, -h - 9), (8, -h - 8), (12, -h * 0.8)), p.accent)
    p.part(blob((-4, h * 0.8), (-14, h + 11), (-2, h + 10), (8, h * 0.8)), p.accent)
    p.part(blob((46, 2), (34, -h * 0.68), (8, -h), (-16, -h * 0.62), (-30, -3), (-30, 3), (-16, h * 0.62), (8, h), (34, h * 0.72)), p.main, pattern=True)
    p.stroke(curve((20, -h * 0.78), (15, 0), (20, h * 0.78)), p.outline(p.main), 1.8)
    with p.turned(12 * p.pose["arms"], 6, 6):
        p.part(blob((8, 4), (-4, 0), (-14, 8), (-10, 17), (2, 13)), p.accent)
    eye(p, 30, -6, 6.8)
    p.stroke(curve((44, 8), (38, 11), (33, 10)), p.outline(p.main), 2)
    if p.pose["mouth"] > 0.35:
        p.part(oval(43, 7, 3, 3.6), (150, 50, 70), shade=None)


def turtle(p):
    skin = p.accent
    wag = p.pose["tail"]
    p.part(blob((-36, 24), (-49, 30 - 3 * wag), (-36, 33)), skin)
    for x in (-22, 18):
        p.part(box(x - 9, 20, x + 9, 45, 7), skin)
    with p.turned(p.pose["tilt"] * 0.8, 28, 16):
        y = -10 * p.shape["neck"]
        p.tube(curve((22, 22), (34, 18), (36, 4 + y)), 10, skin)
        p.part(oval(38, 0 + y, 11.5, 11), skin)
        eye(p, 41, -3 + y, 5)
        p.stroke(curve((42, 6 + y), (46, 5.5 + y), (48.5, 3 + y)), p.outline(skin), 1.8)
    k = p.shape["dome"]
    top = -12 - 26 * k
    if p.shape["shell"] == "pointed":
        shell = blob((-42, 26), (-41, 6), (-30, top * 0.4), (-6, top - 4), (18, top * 0.4), (29, 6), (30, 26))
    else:
        shell = blob((-42, 26), (-40, 4), (-27, top * 0.75), (-6, top), (15, top * 0.75), (28, 4), (30, 26))
    p.part(shell, p.main, pattern=True)
    p.part(box(-46, 20, 34, 29, 4.5), p.second, shade="flat")
