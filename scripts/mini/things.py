"""The drawings: one function a word, and which shapes an instance of the word can have.

A shape parameter is a tuple of variants (strings) or a range (two numbers). `p` is the Pen; main colour and pattern
go on the largest area, the second colour on a second part, the accent on a small one.
"""
from animals import INK, bear, bird, cat, dog, fish, rabbit, turtle
from art import WHITE, blob, box, curve, lathe, oval, rounded, star

GLASS = (176, 218, 240)
METAL = (186, 190, 200)


def teapot(p):
    w, h = 28 * p.shape["width"], 26 * p.shape["height"]
    cy = 14
    if p.shape["handle"] == "side":
        p.tube(curve((-w + 4, cy - 12), (-w - 13, cy - 15), (-w - 15, cy + 4), (-w + 5, cy + 12)), 6.5, p.second)
    else:
        p.tube(curve((-w * 0.75, cy - h * 0.6), (-w * 0.7, cy - h - 16), (0, cy - h - 24), (w * 0.7, cy - h - 16), (w * 0.75, cy - h * 0.6)), 5.5, p.second)
    if p.shape["spout"] == "swan":
        p.part(blob((w - 8, cy + 14), (w + 8, cy + 2), (w + 10, cy - 16), (w + 20, cy - 21), (w + 19, cy - 13), (w + 17, cy + 4), (w - 2, cy + 20)), p.main)
    else:
        p.part(rounded([(w - 8, cy - 6), (w + 15, cy - 23), (w + 20, cy - 17), (w - 2, cy + 14)], 3), p.main)
    p.part(box(-w * 0.55, cy + h - 5, w * 0.55, cy + h + 4, 3), p.second, shade="flat")
    p.part(oval(0, cy, w, h), p.main, pattern=True)
    y = cy - h
    if p.shape["lid"] == "dome":
        p.part(blob((-w * 0.58, y + 5), (-w * 0.4, y - 6), (0, y - 10), (w * 0.4, y - 6), (w * 0.58, y + 5)), p.second)
        p.part(oval(0, y - 13, 5.4), p.accent)
    else:
        p.part(box(-w * 0.6, y - 2, w * 0.6, y + 6, 3), p.second, shade="flat")
        p.part(box(-4, y - 11, 4, y - 1, 3), p.accent)
    p.shine(w * 0.46, cy - h * 0.42, 4.5, 7.5, 28)


def mug(p):
    w, h = 27 * p.shape["width"], 33 * p.shape["height"]
    top, low = 4 - h, 4 + h
    handle = curve((w - 3, top + 16), (w + 15, top + 14), (w + 17, 8), (w - 4, low - 12))
    if p.shape["handle"] == "square":
        handle = curve((w - 3, top + 15), (w + 14, top + 15), (w + 14, low - 15), (w - 4, low - 15), tension=0.2)
    p.tube(handle, 7.5, p.second)
    if p.shape["body"] == "tapered":
        body = rounded([(-w - 1, top), (w + 1, top), (w * 0.72, low), (-w * 0.72, low)], 6)
    elif p.shape["body"] == "round":
        body = lathe((w * 0.86, top), (w * 1.06, 0), (w * 0.98, low - 10), (w * 0.62, low))
    else:
        body = rounded([(-w, top), (w, top), (w, low), (-w, low)], 8)
    p.part(body, p.main, pattern=True, shade="cylinder")
    rim = w * 0.86 if p.shape["body"] == "round" else w
    p.part(oval(0, top, rim, 8.5), p.main)
    p.part(oval(0, top + 1, rim - 4.5, 5.6), p.accent, line=1.2)


def vase(p):
    n, b, low = p.shape["neck"], p.shape["belly"], 46
    stems = {"none": [], "one": [(0, -34)], "three": [(-16, -32), (14, -30), (0, -42)]}[p.shape["flowers"]]
    top = -24 if stems else -42
    for x, y in stems:
        p.stroke(curve((0, top + 12), (x * 0.5, top), (x, y)), (60, 130, 60), 3)
    for x, y in stems:
        for q in star(x, y, 6.2, 1, 3)[::1]:
            p.part(oval(*q, 4.6), p.accent, line=1.1, shade=None)
        p.part(oval(x, y, 4), (250, 214, 90) if p.accent[2] > 90 or p.accent[1] < 120 else WHITE, line=1, shade=None)
    mid = (top + low) / 2
    if p.shape["body"] == "bottle":
        body = lathe((9 * n + 4, top), (8 * n + 1, top + 14), (26 * b, mid + 10), (24 * b, low - 8), (16, low))
    elif p.shape["body"] == "urn":
        body = lathe((16 * n + 3, top), (12 * n + 2, top + 8), (31 * b, mid - 4), (20 * b, low - 12), (13, low))
    else:
        body = lathe((22 * n + 2, top), (17 * n, mid - 8), (18 * b, mid + 8), (20 * b, low - 10), (17, low))
    p.part(body, p.main, pattern=True, shade="cylinder")
    r = {"bottle": 9 * n + 4, "urn": 16 * n + 3, "cup": 22 * n + 2}[p.shape["body"]]
    p.part(box(-r - 2, top - 3, r + 2, top + 4, 3), p.second, shade="cylinder")
    p.part(box(-17, low - 3, 17, low + 3, 3), p.second, shade="cylinder")
    p.shine(11 * b, mid + 4, 3, 10, 8)


def clock(p):
    case, face = p.shape["case"], 23 * p.shape["face"]
    cy = 0
    if case == "alarm":
        for s in (-1, 1):
            p.part(rounded([(s * 14, 30), (s * 24, 28), (s * 30, 47), (s * 22, 47)], 3), p.second)
            with p.turned(s * 34, 0, 4):
                p.part(blob((-12, -36), (-9, -45), (0, -49), (9, -45), (12, -36)), p.accent)
        p.part(box(-3, -44, 3, -34, 2), p.second)
        cy = 4
        p.part(oval(0, cy, 37), p.main, pattern=True)
    elif case == "square":
        for s in (-1, 1):
            p.part(box(s * 26 - 6, 36, s * 26 + 6, 47, 3), p.second)
        p.part(box(-39, -40, 39, 40, 10), p.main, pattern=True, shade="flat")
    elif case == "arch":
        p.part(rounded([(-38, 40), (-38, -6), (-30, -34), (0, -46), (30, -34), (38, -6), (38, 40)], 12), p.main, pattern=True, shade="flat")
        p.part(box(-44, 36, 44, 47, 3), p.second, shade="flat")
    else:
        p.part(rounded([(-46, -16), (0, -48), (46, -16), (40, -8), (-40, -8)], 3), p.second, shade="flat")
        p.part(box(-36, -14, 36, 44, 4), p.main, pattern=True, shade="flat")
        cy = 14
    p.part(oval(0, cy, face + 3.6), p.accent)
    p.part(oval(0, cy, face), (252, 250, 244), shade=None, line=1.2)
    for i in range(4):
        with p.turned(90 * i, 0, cy):
            p.mark(box(-1.4, cy - face + 2.5, 1.4, cy - face + 7, 1), INK)
    hour, minute = p.pose["time"]
    with p.turned(30 * hour, 0, cy):
        p.stroke(curve((0, cy), (0, cy - face * 0.48)), INK, 4)
    with p.turned(6 * minute, 0, cy):
        p.stroke(curve((0, cy), (0, cy - face * 0.74)), INK, 2.7)
    p.mark(oval(0, cy, 3), INK)


def lamp(p):
    w = p.shape["width"]
    kind = p.shape["foot"]
    if kind == "stick":
        p.part(box(-3, 4, 3, 42, 2), p.accent, shade="cylinder")
    elif kind == "balls":
        for y, r in ((12, 6.5), (23, 8), (35, 9.5)):
            p.part(oval(0, y, r), p.accent)
    else:
        p.part(lathe((4, 6), (15, 24), (13, 36), (8, 42)), p.accent, shade="cylinder")
    p.part(rounded([(-22, 47), (-18, 39), (18, 39), (22, 47)], 3), p.second, shade="cylinder")
    if p.shape["shade"] == "cone":
        shade = rounded([(-15 * w, -46), (15 * w, -46), (38 * w, 8), (-38 * w, 8)], 4)
    elif p.shape["shade"] == "drum":
        shade = rounded([(-29 * w, -44), (29 * w, -44), (33 * w, 8), (-33 * w, 8)], 4)
    else:
        shade = blob((-8, -46), (8, -46), (28 * w, -30), (38 * w, 6), (20, 9), (-20, 9), (-38 * w, 6), (-28 * w, -30))
    p.part(shade, p.main, pattern=True, shade="cylinder")
    base = 38 if p.shape["shade"] != "drum" else 33
    p.part(box(-base * w, 4, base * w, 10, 3), p.second, shade="cylinder")


def backpack(p):
    w = 32 * p.shape["width"]
    p.tube(curve((-9, -36), (-8, -47), (8, -47), (9, -36)), 4.5, p.accent)
    for s in (-1, 1):
        p.part(blob((s * (w - 4), -14), (s * (w + 10), -4), (s * (w + 11), 30), (s * (w - 2), 42)), p.second)
    if p.shape["body"] == "dome":
        body = rounded([(-w, 46), (-w, -10), (-w * 0.78, -36), (0, -43), (w * 0.78, -36), (w, -10), (w, 46)], 12)
    else:
        body = box(-w, -40, w, 46, 12)
    p.part(body, p.main, pattern=True, shade="flat")
    if p.shape["pocket"] == "flap":
        p.part(rounded([(-w + 1, -26), (w - 1, -26), (w * 0.8, -2), (0, 4), (-w * 0.8, -2)], 7), p.second, shade="flat")
        p.part(box(-5, -3, 5, 9, 2.5), p.accent)
    elif p.shape["pocket"] == "two":
        for s in (-1, 1):
            p.part(box(s * w * 0.48 - 11, 10, s * w * 0.48 + 11, 38, 4), p.second, shade="flat")
            p.part(box(s * w * 0.48 - 11, 9, s * w * 0.48 + 11, 19, 3), p.accent, shade="flat")
    else:
        p.part(box(-w * 0.68, 8, w * 0.68, 40, 6), p.second, shade="flat")
        p.part(box(-w * 0.56, 14, w * 0.56, 18.5, 2), p.accent, shade=None, line=1.2)


def boot(p):
    h, heel = p.shape["height"], p.shape["sole"]
    top = -12 - 32 * h
    toe = 46 if p.shape["toe"] == "round" else 49
    nose = [(26, 14), (42, 18), (toe, 28), (toe - 1, 38)] if p.shape["toe"] == "round" else [(22, 16), (38, 26), (toe, 34), (toe, 38)]
    if heel == "heel":
        p.part(rounded([(-26, 36), (-4, 36), (-8, 47), (-25, 47)], 2), p.accent, shade="flat")
        p.part(rounded([(-8, 36), (toe, 36), (toe - 1, 43), (8, 43)], 2), p.accent, shade="flat")
    path = curve((14, top), (13, -6), *nose)
    path.lineTo(-26, 38)
    path.addPath(curve((-26, 38), (-27, 22), (-22, 0), (-25, top)), path.kExtend_AddPathMode)
    path.close()
    p.part(path, p.main, pattern=True, shade="flat")
    if heel == "flat":
        p.part(box(-29, 36, toe + 2, 46, 4), p.accent, shade="flat")
    if p.shape["closure"] == "laces":
        for i in range(3):
            y = -10 + 9 * i
            p.stroke(curve((2, y), (17 + 2.2 * i, y + 2)), WHITE, 3)
            p.stroke(curve((2, y + 1.8), (17 + 2.2 * i, y + 3.8)), p.outline(p.main), 0.9)
    elif p.shape["closure"] == "strap":
        p.part(rounded([(-25, 2), (16, 4), (19, 12), (-26, 11)], 2), p.second, shade="flat")
        p.part(box(2, 1.5, 12, 12.5, 2), (246, 206, 84))
    p.part(box(-29, top - 5, 18, top + 6, 5), p.second, shade="flat")


def wheel(p, x, y, r):
    p.part(oval(x, y, r), (52, 52, 60))
    p.part(oval(x, y, r * 0.52), p.accent, line=1.2)


def car(p):
    n, kind = p.shape["wheel size"], p.shape["body"]
    r = 10.5 * n
    if kind == "van":
        body = rounded([(-47, 30), (-47, -30), (22, -30), (38, -4), (47, 2), (47, 30)], 7)
        glass = [(-39, -22, -17, -3), (-12, -22, 10, -3)]
    elif kind == "pickup":
        body = rounded([(-48, 30), (-48, 2), (-8, 2), (-4, -28), (20, -28), (32, 0), (48, 4), (48, 30)], 5)
        glass = [(2, -21, 18, 0)]
    elif kind == "round":
        body = blob((-48, 22), (-44, 4), (-26, -12), (-16, -30), (8, -34), (26, -22), (34, -2), (46, 8), (47, 26), (38, 31), (-40, 31))
        glass = [(-17, -22, 2, -4), (6, -22, 21, -4)]
    else:
        body = rounded([(-48, 30), (-48, 0), (-32, -4), (-22, -30), (16, -30), (30, -4), (48, 2), (48, 30)], 7)
        glass = [(-20, -23, -3, -5), (2, -23, 17, -5)]
    p.part(body, p.main, pattern=True, shade="flat")
    for x0, y0, x1, y1 in glass:
        p.part(box(x0, y0, x1, y1, 3.5), GLASS, shade="flat")
    p.part(box(-49, 22, 49, 30, 4), p.second, shade="flat")
    p.part(oval(43, 13, 4, 5), (255, 236, 150), line=1.2)
    for x in (-27, 27):
        wheel(p, x, 32, r)


def boat(p):
    w = p.shape["width"]
    top = 8
    if p.shape["rig"] == "steamer":
        p.part(box(4, -40, 19, 0, 2), p.accent, shade="cylinder")
        p.part(box(3, -42, 20, -34, 2), INK, shade="cylinder")
        p.part(box(-28, -16, 30, 12, 3), p.second, shade="flat")
        for x in (-18, 1, 20):
            p.part(oval(x, -2, 5), GLASS, line=1.5)
    else:
        p.part(box(-3, -47, 2, 14, 1), (140, 92, 56), shade="cylinder")
        p.part(rounded([(4, -42), (4, 3), (36 * w, 3)], 3), p.second, shade="flat")
        if p.shape["rig"] == "two sails":
            p.part(rounded([(-6, -32), (-6, 3), (-34 * w, 3)], 3), p.second, shade="flat")
        p.part(rounded([(-3, -49), (-3, -39), (-20, -44)], 1), p.accent, shade=None, line=1.2)
    bow = 49 * w
    if p.shape["hull"] == "pointed":
        hull = rounded([(-42 * w, top), (bow, top - 3), (28 * w, 44), (-32 * w, 44)], 5)
    else:
        hull = blob((-44 * w, top), (0, top + 2), (46 * w, top), (40 * w, 30), (22, 44), (-22, 44), (-38 * w, 30))
    p.part(hull, p.main, pattern=True, shade="flat")
    p.part(rounded([(-46 * w, top - 3), (bow, top - 4), (bow - 3, top + 5), (-44 * w, top + 5)], 2), p.accent, shade="flat")


def house(p):
    w, h = 34 * p.shape["width"], p.shape["height"]
    eaves = -4 - 8 * (h - 1) * 4
    if p.shape["chimney"] == "chimney":
        p.part(box(w * 0.42, -44, w * 0.42 + 11, -14, 1), p.accent, shade="flat")
    p.part(box(-w, eaves - 4, w, 46, 2), p.main, pattern=True, shade="flat")
    if p.shape["roof"] == "gable":
        p.part(rounded([(-w - 9, eaves + 2), (0, -47), (w + 9, eaves + 2)], 4), p.second, shade="flat")
    elif p.shape["roof"] == "barn":
        p.part(rounded([(-w - 7, eaves + 2), (-w * 0.72, -32), (0, -46), (w * 0.72, -32), (w + 7, eaves + 2)], 3), p.second, shade="flat")
    else:
        p.part(rounded([(-w - 8, eaves + 2), (-w * 0.6, -40), (w * 0.6, -40), (w + 8, eaves + 2)], 3), p.second, shade="flat")
    doors = {"left": -w * 0.5, "middle": 0, "right": w * 0.5}[p.shape["door"]]
    p.part(rounded([(doors - 8, 46), (doors - 8, 20), (doors, 16), (doors + 8, 20), (doors + 8, 46)], 3), p.accent, shade="flat")
    p.mark(oval(doors + 4.5, 33, 1.6), (255, 230, 140))
    spots = {"left": (w * 0.42,), "middle": (-w * 0.64, w * 0.64), "right": (-w * 0.42,)}[p.shape["door"]]
    r = 8.5 if len(spots) == 1 else 6.5
    for x in spots:
        p.part(box(x - r, 18, x + r, 18 + 2 * r, 1.5), (255, 240, 176), shade=None, line=2)
        p.stroke(curve((x, 18), (x, 18 + 2 * r)), WHITE, 1.6)
        p.stroke(curve((x - r, 18 + r), (x + r, 18 + r)), WHITE, 1.6)


def guitar(p):
    with p.turned(24, 0, 0, 1.02, 1.02):
        wood = p.second
        p.part(rounded([(-7, -54), (7, -54), (5.5, -38), (-5.5, -38)], 2), p.accent, shade="flat")
        for s in (-1, 1):
            for y in (-50, -43):
                p.part(oval(s * 8.5, y, 2.6), METAL, line=1)
        k, b = p.shape["waist"], p.shape["belly"]
        if p.shape["body"] == "electric":
            p.part(box(-4.5, -40, 4.5, 8, 1), wood, shade="cylinder")
            p.part(blob((-10, -6), (-24, -16), (-25, 2), (-18, 14 * k), (-29 * b, 30), (-20, 49), (0, 52), (20, 49), (29 * b, 32), (19, 14 * k), (24, 0), (20, -8), (10, 2)), p.main, pattern=True)
            p.part(box(-9, 12, 9, 18, 2), INK)
            p.part(box(-9, 24, 9, 30, 2), INK)
        else:
            p.part(blob((0, -13), (15, -11), (21 * b, 0), (16 * k, 13), (28 * b, 30), (20, 49), (0, 53), (-20, 49), (-28 * b, 30), (-16 * k, 13), (-21 * b, 0), (-15, -11)), p.main, pattern=True)
            p.part(oval(0, 14, 9.2), p.accent, line=1.3)
            p.mark(oval(0, 14, 6.4), (40, 26, 24))
            p.part(box(-4.5, -40, 4.5, 8, 1), wood, shade="cylinder")
        p.part(box(-12, 37, 12, 42, 2), INK)
        for x in (-2.2, 0, 2.2):
            p.stroke(curve((x, -44), (x, 39)), (246, 240, 220), 0.8)


def robot(p):
    w, arms = p.shape["width"], p.pose["arms"]
    p.stroke(curve((0, -34), (0, -44)), METAL, 3)
    p.part(oval(0, -45, 4.6), p.accent)
    for s in (-1, 1):
        if p.shape["feet"] == "legs":
            p.part(box(s * 12 - 5, 30, s * 12 + 5, 42, 2), METAL, shade="cylinder")
            p.part(box(s * 13 - 9, 39, s * 13 + 9, 48, 4), p.second)
        with p.turned(-s * (18 + 22 * arms), s * 24 * w, 6):
            p.tube(curve((s * 26 * w, 6), (s * 31 * w, 22)), 6, METAL)
            p.part(oval(s * 31 * w, 26, 6.4), p.accent)
    if p.shape["feet"] == "wheels":
        for x in (-15, 15):
            wheel(p, x, 39, 9)
    p.part(box(-25 * w, -4, 25 * w, 37, 6), p.main, pattern=True, shade="flat")
    with p.turned(p.pose["tilt"] * 0.6, 0, -4):
        for s in (-1, 1):
            p.part(box(s * 27 * w - 4, -24, s * 27 * w + 4, -14, 2), p.accent)
        if p.shape["head"] == "square":
            p.part(box(-26 * w, -37, 26 * w, -4, 5), p.main, shade="flat")
        else:
            p.part(rounded([(-26 * w, -4), (-26 * w, -20), (-18 * w, -36), (18 * w, -36), (26 * w, -20), (26 * w, -4)], 7), p.main, shade="flat")
        p.part(box(-20 * w, -31, 20 * w, -9, 5), p.second, shade=None, line=1.4)
        dx = p.pose["look"][0]
        for s in (-1, 1):
            p.part(oval(s * 9.5, -22, 5.2), WHITE, shade=None, line=1.2)
            p.mark(oval(s * 9.5 + dx, -22, 2.8), INK)
        p.part(box(-7, -15, 7, -12, 1.5), WHITE, shade=None, line=1.2)


def hat(p):
    k, kind = p.shape["height"], p.shape["crown"]
    y = 30
    if kind == "top":
        h = 50 + 18 * (k - 1)
        crown = rounded([(-24, y), (-28, y - h - 8), (28, y - h - 8), (24, y)], 4)
        band = rounded([(-24.5, y - 14), (24.5, y - 14), (24, y), (-24, y)], 1)
    elif kind == "bowler":
        h = 44 + 16 * (k - 1)
        crown = blob((-28, y), (-28, y - h * 0.6), (-16, y - h), (16, y - h), (28, y - h * 0.6), (28, y))
        band = rounded([(-29, y - 13), (29, y - 13), (28.5, y), (-28.5, y)], 1)
    else:
        tip = y - 72 - 14 * (k - 1)
        crown = curve((27, y), (18, y - 26), (8, y - 52), (-3, tip), (-12, y - 48), (-20, y - 24), (-27, y))
        crown.close()
        band = rounded([(-23, y - 14), (22.5, y - 14), (27, y), (-27, y)], 1)
    p.part(crown, p.main, pattern=True, shade="cylinder")
    p.part(band, p.accent, shade="cylinder")
    if p.shape["band"] == "buckle":
        p.part(box(-7, y - 16, 7, y + 1, 2), (248, 208, 84))
        p.mark(box(-3.4, y - 12, 3.4, y - 3, 1), p.accent)
    elif p.shape["band"] == "feather":
        p.part(blob((14, y - 6), (25, y - 30), (36, y - 44), (37, y - 30), (28, y - 12)), p.second)
        p.stroke(curve((17, y - 8), (33, y - 38)), p.outline(p.second), 1.2)
    w = 46 if kind != "bowler" else 42
    p.part(blob((-w, y + 2), (-w * 0.6, y - 4), (0, y - 1), (w * 0.6, y - 4), (w, y + 2), (w * 0.6, y + 11), (0, y + 13), (-w * 0.6, y + 11)), p.second if kind == "bowler" else p.main)


WEARS = ("collar", "bow", "scarf")
WORDS = {  # word -> (drawing, its shape parameters)
    "dog": (dog, {"ears": ("floppy", "upright", "folded"), "ear length": (0.3, 1), "fat": (0.88, 1.15), "wears": WEARS}),
    "cat": (cat, {"ears": ("pointed", "wide"), "ear length": (0.3, 1), "fat": (0.82, 1.12), "wears": WEARS}),
    "rabbit": (rabbit, {"ears": ("upright", "bent", "lop"), "ear length": (0.5, 1), "fat": (0.85, 1.12), "wears": WEARS}),
    "bear": (bear, {"ears": ("wide", "high"), "ear length": (0.1, 1), "fat": (0.95, 1.2), "wears": WEARS}),
    "bird": (bird, {"beak": ("long", "short", "flat"), "crest": ("tuft", "comb", "none"), "fat": (0.88, 1.12)}),
    "fish": (fish, {"tail": ("forked", "fan"), "fin": ("sail", "small"), "fat": (0.8, 1.15)}),
    "turtle": (turtle, {"shell": ("round", "pointed"), "dome": (0.6, 1), "neck": (0.2, 1.6)}),
    "teapot": (teapot, {"spout": ("swan", "straight"), "handle": ("side", "top"), "lid": ("dome", "flat"), "width": (0.88, 1.08), "height": (0.82, 1.08)}),
    "mug": (mug, {"body": ("straight", "tapered", "round"), "handle": ("round", "square"), "width": (0.85, 1.1), "height": (0.85, 1.12)}),
    "vase": (vase, {"body": ("bottle", "urn", "cup"), "flowers": ("none", "one", "three"), "neck": (0.8, 1.2), "belly": (0.9, 1.2)}),
    "clock": (clock, {"case": ("alarm", "square", "arch", "house"), "face": (0.88, 1.08)}),
    "lamp": (lamp, {"shade": ("cone", "drum", "dome"), "foot": ("stick", "balls", "urn"), "width": (0.85, 1.1)}),
    "backpack": (backpack, {"body": ("dome", "box"), "pocket": ("flap", "two", "wide"), "width": (0.9, 1.1)}),
    "boot": (boot, {"toe": ("round", "pointed"), "sole": ("flat", "heel"), "closure": ("none", "laces", "strap"), "height": (0.5, 1)}),
    "car": (car, {"body": ("sedan", "round", "van", "pickup"), "wheel size": (0.9, 1.25)}),
    "boat": (boat, {"rig": ("one sail", "two sails", "steamer"), "hull": ("pointed", "round"), "width": (0.88, 1)}),
    "house": (house, {"roof": ("gable", "barn", "flat"), "door": ("left", "middle", "right"), "chimney": ("chimney", "none"), "width": (0.88, 1.1), "height": (0.9, 1.1)}),
    "guitar": (guitar, {"body": ("acoustic", "electric"), "waist": (0.85, 1.1), "belly": (0.92, 1.1)}),
    "robot": (robot, {"head": ("square", "dome"), "feet": ("legs", "wheels"), "width": (0.9, 1.12)}),
    "hat": (hat, {"crown": ("top", "bowler", "cone"), "band": ("plain", "buckle", "feather"), "height": (0.85, 1.15)}),
}
FRAMES = {  # word -> (dx, dy, scale) that centre it and let it fill the square
    "dog": (-2, 0, 1.03), "cat": (-2, 0, 1.02), "rabbit": (0, 0, 1.04), "bear": (0, 0, 1.03), "bird": (1, 0, 1.02), "fish": (1, -1, 1.02),
    "turtle": (0, -4, 0.99), "teapot": (-1, -5, 1.04), "mug": (-10, 0, 1.18), "vase": (0, 0, 1), "clock": (0, -1, 1.02), "lamp": (0, 0, 1.02),
    "backpack": (0, 2, 0.99), "boot": (-10, -1, 1.04), "car": (0, -4, 1), "boat": (-1, 1, 1.02), "house": (0, 0, 1.04), "guitar": (5, 0, 0.96),
    "robot": (0, 0, 0.99), "hat": (0, -6, 1.04),
}
LIVE = ("dog", "cat", "rabbit", "bear", "bird", "fish", "turtle")
