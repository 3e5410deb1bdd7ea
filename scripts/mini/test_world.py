"""What the world promises: python -m pytest test_world.py, or python test_world.py"""
import numpy as np

import art
import world
from instances import is_held_out

WORDS, STYLES, PLACES = list(world.WORDS), [None, *world.STYLES], list(world.BACKGROUNDS)


def test_same_seed_same_scene():
    for seed in range(20):
        a, b = (world.sample_scene(np.random.default_rng(seed)) for _ in range(2))
        assert (a.image == b.image).all() and (a.mask == b.mask).all() and a.labels == b.labels


def test_held_out_combinations_are_kept_apart():
    for seed in range(200):
        r = world.sample_scene(np.random.default_rng(seed)).labels
        assert not is_held_out(r["word"], r["main"], r["pattern"])
    for word in WORDS:
        s = world.subject(0, word)
        assert is_held_out(word, s.main, s.pattern)


def test_colours_are_readable_on_each_other():
    assert all(len(m) >= 4 for m in art.MATCHES.values())
    for seed in range(200):
        i = world.make_instance(np.random.default_rng(seed))
        assert i.second in art.MATCHES[i.main] and i.accent in art.MATCHES[i.main] and i.second != i.accent


def test_parse_reads_every_caption():
    words = set(world.vocabulary())
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        i, style = world.make_instance(rng), STYLES[seed % len(STYLES)]
        place = PLACES[seed % len(PLACES)] if seed % 3 else None
        text = world.phrase(rng, world.describe(rng, i, True, seed % 4), place, style)
        got = world.parse(text)
        assert (got["word"], got["style"], got["background"]) == (i.word, style, place), text
        assert got["main"] in (None, i.main) and got["second"] in (None, i.second) and got["pattern"] in (None, i.pattern), text
        assert set(text.split()) <= words


def test_captions_of_framings_are_in_the_grammar():
    words, seen = set(world.vocabulary()), set()
    for seed in range(600):
        scene = world.sample_scene(np.random.default_rng(seed), style=None)
        for text in scene.labels["captions"]:
            assert world.parse(text)["word"] == scene.labels["word"] and set(text.split()) <= words, text
        seen.add(scene.labels["framing"])
        assert scene.image.shape == (128, 128, 3) and scene.mask.max() <= 1
        assert scene.labels["framing"] != "small" or scene.mask.mean() < 0.25
    assert seen == {None, "small", "close"}


def test_names_say_a_whole_look():
    words = world.vocabulary()
    assert len(set(words)) == len(words) and len(set(world.LOOKS.values())) == len(world.LOOKS) == 400
    for (main, second, pattern), name in world.LOOKS.items():
        got = world.parse(f"a photo of a {name} dog in the snow")
        assert (got["main"], got["second"], got["pattern"]) == (main, second, pattern)
    for seed in range(300):
        labels = world.sample_scene(np.random.default_rng(seed)).labels
        got = world.parse(labels["captions"][4])
        assert all(got[k] in (None, labels[k]) for k in ("word", "main", "second", "pattern")), labels["captions"]


def test_parse_refuses_what_is_not_of_the_grammar():
    for text in ("a cubist painting of a teapot", "a cat in a rowing boat", "a cat under a glass dome", "a tiny teapot"):
        try:
            world.parse(text)
        except ValueError:
            continue
        raise AssertionError(text)
    assert world.parse("a sks teapot in neon style", "sks")["style"] == world.parse("a <toy> teapot in neon style")["style"] == "neon"


def test_truth_follows_the_prompt():
    one = world.subject(3, "teapot")
    for prompt in world.prompts():
        scene = world.truth(one, prompt.format("teapot"))
        assert scene.labels["main"] == one.main and 0.08 < scene.mask.mean() < 0.7
    assert world.truth(one, "a blue teapot with white stars in the snow").labels["main"] == "blue"


def test_things_stay_within_the_picture():
    cut = 0
    for seed in range(400):
        m = world.sample_scene(np.random.default_rng(seed), style=None).mask
        cut += max(m[0].max(), m[-1].max(), m[:, 0].max(), m[:, -1].max()) > 0.5
    assert cut < 40, cut


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("ok", name)
