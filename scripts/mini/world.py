"""The toy world: one instance of a word in a nameable place, in a nameable style or none, with a caption.

    scene = sample_scene(np.random.default_rng(7))     # .image .mask .caption .labels
    one = subject(3, "teapot")                         # a held-out instance
    shots = photos(one, 5)                             # [Scene], varied places, exact masks
    right = truth(one, "a watercolor of a teapot in the snow")   # what the prompt should give

Images are uint8 RGB of 128 x 128, masks float32 in 0..1. Everything follows from seeds.
"""
import re
from dataclasses import dataclass, field

import cv2
import numpy as np

from art import COLORS, MATCHES, PATTERNS
from backgrounds import BACKGROUNDS, VARIANTS, backdrop
from instances import SIDE, draw, make_instance, make_view, recolored
from styles import STYLES, apply_style, blur
from things import WORDS

__all__ = ["sample_scene", "subject", "photos", "truth", "compose", "caption", "parse", "prompts", "vocabulary", "Scene"]

PATTERN_WORDS = {  # pattern -> (adjective, noun)
    "dots": ("dotted", "dots"), "stripes": ("striped", "stripes"), "checks": ("checkered", "checks"),
    "zigzags": ("zigzag", "zigzags"), "stars": ("starry", "stars"), "patches": ("patchy", "patches"),
}
PHOTO = ["{}", "a photo of {}", "{n}", "photo of {}", "a picture of {}"]
AMBIENT = {"night": (0.86, 0.9, 1.02), "space": (0.93, 0.92, 1.02), "underwater": (0.9, 0.98, 1.02), "sunset": (1.02, 0.94, 0.88)}
SYLLABLES = ("ba", "du", "fe", "gi", "ko", "la", "mu", "ne", "pi", "ro", "su", "ta", "ve", "wi", "yo", "za", "hi", "lo", "me", "nu")
FRAMINGS = {"small": ("very small", "a far away"), "close": ("zoomed in", "close up")}  # what the method says of references it rescales
STYLED, REFRAMED = 0.4, 0.08  # shares of styled pictures, and of the others in a framing
PHOTO_PLACES = ("plain_white", "wooden_floor", "meadow", "brick_wall", "beach", "tiles", "plain_yellow", "library", "snow", "city")


@dataclass(frozen=True)
class Scene:
    image: np.ndarray  # uint8 [128, 128, 3]
    mask: np.ndarray  # float32 [128, 128], the exact cover of the object
    caption: str
    labels: dict = field(repr=False)


# ---------------------------------------------------------------- pictures
def shade_under(mask, stands):
    """How much of the light the object takes from the place: at its feet, or behind it."""
    if not stands:
        return 0.3 * cv2.warpAffine(blur(mask, 3.0), np.float32([[1, 0, 3], [0, 1, 4]]), (SIDE, SIDE))
    rows, columns = np.flatnonzero(mask.max(1) > 0.5), np.flatnonzero(mask[-64:].max(0) > 0.5)
    spot = np.zeros((SIDE, SIDE), np.float32)
    if len(rows) and len(columns):
        middle, half = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0]) / 2
        center = (int(16 * middle), int(16 * (rows[-1] - 1)))
        cv2.ellipse(spot, center, (int(16 * half), int(16 * 6)), 0, 0, 360, 1.0, -1, cv2.LINE_AA, 4)
    return 0.38 * blur(spot, 2.5)


def compose(instance, view, background, variant=0, style=None):
    """-> (uint8 picture, mask)"""
    rgba = draw(instance, view)
    alpha = rgba[..., 3:]
    place = backdrop(background, variant % VARIANTS)
    place = place * (1 - shade_under(rgba[..., 3], BACKGROUNDS[background][3])[..., None])
    thing = rgba[..., :3] * np.float32(AMBIENT.get(background, (1, 1, 1)))
    image = apply_style(place * (1 - alpha) + thing * alpha, style)
    return (image * 255 + 0.5).astype(np.uint8), rgba[..., 3]


def reframed(rng, image, mask, framing):
    """A picture as the method augments references: shrunk and pasted on black, or enlarged and cropped."""
    if framing == "small":
        side = int(rng.integers(SIDE // 3, int(0.6 * SIDE)))
        x, y = rng.integers(0, SIDE - side, 2, endpoint=True)
        canvas, cover = np.zeros_like(image), np.zeros_like(mask)
        canvas[y : y + side, x : x + side] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        cover[y : y + side, x : x + side] = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
        return canvas, cover
    side = int(SIDE * rng.uniform(1.2, 1.4))
    x, y = rng.integers(0, side - SIDE, 2, endpoint=True)
    return tuple(cv2.resize(v, (side, side), interpolation=cv2.INTER_CUBIC)[y : y + SIDE, x : x + SIDE].clip(0, v.max()) for v in (image, mask))


def article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


# ---------------------------------------------------------------- captions
def looks():
    """Names that say a whole look in one word, as "dalmatian" does: (main, second, pattern) -> name, for some of all looks."""
    every = [(main, second, pattern) for main in COLORS for second in MATCHES[main] for pattern in PATTERNS]
    chosen = np.random.default_rng(2).permutation(len(every))[: len(SYLLABLES) ** 2]
    return {every[i]: SYLLABLES[k // len(SYLLABLES)] + SYLLABLES[k % len(SYLLABLES)] for k, i in enumerate(chosen)}


LOOKS = looks()
START = "ktn"  # in no caption: what names have in common, from which the method's vectors start


def describe(rng, instance, colors=True, detail=None):
    """A noun phrase without article; `detail` 0 (the word alone) to 3 (all that the grammar can name)."""
    detail = int(rng.choice([0, 1, 2, 3], p=[0.2, 0.2, 0.25, 0.35])) if detail is None else detail
    word, main, second = instance.word, instance.main, instance.second
    if detail == 0:
        return word
    if instance.pattern == "plain":
        if not colors:
            return word if detail < 3 else f"plain {word}"
        return [f"{main} {word}", f"plain {main} {word}", f"{main} and {second} {word}"][detail - 1]
    adjective, noun = PATTERN_WORDS[instance.pattern]
    if not colors:
        return [f"{adjective} {word}", f"{word} with {noun}"][int(rng.integers(2))]
    if detail == 1:
        return [f"{main} {word}", f"{adjective} {word}"][int(rng.integers(2))]
    if detail == 2:
        return [f"{main} {adjective} {word}", f"{word} with {second} {noun}"][int(rng.random() < 0.3)]
    return f"{main} {word} with {second} {noun}"


def phrase(rng, noun, background=None, style=None, first=False):
    """The caption around a noun phrase; `first` takes the first wording of each list."""
    pick = (lambda options: options[0]) if first else (lambda options: options[int(rng.integers(len(options)))])
    where = " " + pick(BACKGROUNDS[background][1]) if background else ""
    template = pick(STYLES[style][1] if style else PHOTO)
    if style and template.startswith("{") and (first or rng.random() < 0.5):  # "a dog in neon style on the beach"
        return template.format(article(noun), n=noun) + where
    return template.format(article(noun + where), n=noun + where)


def caption(rng, instance, background, style=None, detail=None, framing=None):
    """One caption that is true of the picture; it may leave out attributes and the place."""
    colors = style is None or STYLES[style][2]
    if framing:
        where = " " + BACKGROUNDS[background][1][0] if rng.random() < 0.3 else ""
        return f"{rng.choice(FRAMINGS[framing])} photo of {article(describe(rng, instance, colors, detail))}{where}"
    return phrase(rng, describe(rng, instance, colors, detail), background if rng.random() < 0.75 else None, style)


# ---------------------------------------------------------------- the training distribution
def sample_scene(rng, word=None, style=..., held_out=False, spread=1.0, mirror=0.15):
    """One random training picture; never a held-out combination unless asked for."""
    instance = make_instance(rng, word, held_out)
    view = make_view(rng, instance.word, spread, mirror)
    shares = np.array([b[2] for b in BACKGROUNDS.values()], float)
    background = str(rng.choice(list(BACKGROUNDS), p=shares / shares.sum()))
    variant = int(rng.integers(VARIANTS))
    if style is ...:
        style = str(rng.choice(list(STYLES))) if rng.random() < STYLED else None
    image, mask = compose(instance, view, background, variant, style)
    framing = str(rng.choice(list(FRAMINGS))) if style is None and rng.random() < REFRAMED else None
    if framing:
        image, mask = reframed(rng, image, mask, framing)
        said = [caption(rng, instance, background, framing=framing, detail=d) for d in (None, None, None, 3)]
    else:
        said = [caption(rng, instance, background, style) for _ in range(3)] + [phrase(rng, describe(rng, instance, style is None or STYLES[style][2], 3), background, style)]
    name = LOOKS.get((instance.main, instance.second, instance.pattern))
    said.append(phrase(rng.spawn(1)[0], f"{name} {instance.word}", background, style) if name and not framing else said[3])
    labels = {**instance.labels(), "background": background, "style": style or "photo", "framing": framing, "captions": said}
    return Scene(image, mask, said[0], labels)


# ---------------------------------------------------------------- evaluation
def subject(seed, word):
    """A held-out instance: its main colour and pattern were never seen on this word in training."""
    return make_instance(np.random.default_rng([911, seed, *word.encode()]), word, held_out=True)


def _seed(instance):
    return [int(1000 * v) for v in instance.main_rgb + instance.second_rgb] + list(instance.word.encode())


def photos(instance, n=5, seed=0, places=PHOTO_PLACES):
    """n unstyled pictures of one instance, each in another place and view."""
    shots = []
    for i in range(n):
        rng = np.random.default_rng([i, seed, *_seed(instance)])
        background, view = places[i % len(places)], make_view(rng, instance.word)
        image, mask = compose(instance, view, background, int(rng.integers(VARIANTS)))
        shots.append(Scene(image, mask, phrase(rng, instance.word, background, first=True), {**instance.labels(), "background": background, "style": "photo"}))
    return shots


def truth(instance, prompt, seed=0, name=None):
    """The right picture of an instance for a prompt of the grammar; colours and patterns that it names replace the
    instance's, what it leaves open (place, view) follows from the seed. `name`: see parse."""
    asked = parse(prompt, name)
    if asked["word"] != instance.word:
        raise ValueError(f"{prompt!r} is not about a {instance.word}")
    instance = recolored(instance, **{k: asked[k] for k in ("main", "second", "pattern") if asked[k]})
    rng = np.random.default_rng([seed, *prompt.encode(), *_seed(instance)])
    background = asked["background"] or str(rng.choice(list(BACKGROUNDS)))
    image, mask = compose(instance, make_view(rng, instance.word), background, int(rng.integers(VARIANTS)), asked["style"])
    return Scene(image, mask, prompt, {**instance.labels(), "background": background, "style": asked["style"] or "photo"})


def _pattern(template):
    return re.compile("^" + re.escape(template).replace(r"\{\}", "(?:an? )?(.+)").replace(r"\{n\}", "(?:an? )?(.+)") + "$")


_PLACES = sorted(((p, name) for name, b in BACKGROUNDS.items() for p in b[1]), key=lambda x: -len(x[0]))
_TEMPLATES = sorted(((t, name) for name, s in STYLES.items() for t in s[1]), key=lambda x: -len(x[0]))
_TEMPLATES = [(_pattern(t), name) for t, name in _TEMPLATES] + [(_pattern(t), None) for t in sorted(PHOTO, key=len, reverse=True)]
_ADJECTIVES = {a: p for p, (a, _) in PATTERN_WORDS.items()} | {"plain": "plain"}
_NAMED = {name: look for look, name in LOOKS.items()}
_NOUNS = {n: p for p, (_, n) in PATTERN_WORDS.items()}


def parse(prompt, name=None):
    """What a prompt of the grammar asks for: word, main, second, pattern, background, style (None where open).

    The subject's name before the word passes: `name`, or any token in angle brackets ("a <toy> teapot").
    """
    text = " ".join(w for w in prompt.lower().split() if w != (name or "").lower() and not re.fullmatch("<.*>", w))
    for said in (w for pair in FRAMINGS.values() for w in pair):
        text = text.removeprefix(said + " ")
    found = dict.fromkeys(("word", "main", "second", "pattern", "background", "style"))
    for place, name in _PLACES:
        at = re.search(rf" {re.escape(place)}(?= |$)", text)
        if at:
            found["background"], text = name, text[: at.start()] + text[at.end() :]
            break
    for template, style in _TEMPLATES:
        match = template.match(text)
        if match:
            found["style"], text = style, match.group(1)
            break
    noun, _, ornament = text.partition(" with ")
    *before, word = noun.split() or [""]
    if word not in WORDS:
        raise ValueError(f"no word of this world in {prompt!r}")
    for w in before:
        if w not in COLORS and w not in _ADJECTIVES and w not in _NAMED and w not in ("a", "an", "the", "and", START):
            raise ValueError(f"{w!r} in {prompt!r} is not of the grammar")
    found["word"] = word
    if before and before[-1] in _NAMED:
        found["main"], found["second"], found["pattern"] = _NAMED[before[-1]]
        return found
    colors = [w for w in before if w in COLORS]
    found["main"], found["second"] = (colors + [None, None])[:2]
    found["pattern"] = next((_ADJECTIVES[w] for w in before if w in _ADJECTIVES), None)
    for w in ornament.split():
        if w in COLORS:
            found["second"] = w
        elif w in _NOUNS:
            found["pattern"] = _NOUNS[w]
        else:
            raise ValueError(f"{w!r} in {prompt!r} is not of the grammar")
    return found


def prompts(word="{}", places=True, styles=True):
    """Prompts of the grammar, one for each place, each style, and each style in some place; {} stands for the subject."""
    rng = np.random.default_rng(0)
    out = [phrase(rng, word, p, first=True) for p in BACKGROUNDS] if places else []
    if styles:
        out += [phrase(rng, word, None, s, first=True) for s in STYLES]
        out += [phrase(rng, word, str(rng.choice(list(BACKGROUNDS))), s, first=True) for s in STYLES]
    return out


def vocabulary():
    """All words that captions can contain: sorted, after them the names of looks and the start of the method's vectors."""
    texts = [*WORDS, *COLORS, "plain", "and", "with", "a", "an", *(w for pair in PATTERN_WORDS.values() for w in pair), *PHOTO, *(w for pair in FRAMINGS.values() for w in pair)]
    texts += [p for b in BACKGROUNDS.values() for p in b[1]] + [t for s in STYLES.values() for t in s[1]]
    return sorted({w for t in texts for w in t.replace("{n}", " ").replace("{}", " ").split()}) + [*LOOKS.values(), START]
