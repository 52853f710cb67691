import itertools

import numpy as np
import pytest

from synthcap_mm.miniscenes import VOCABULARY_FILE
from synthcap_mm.miniscenes.language import (
    _CHAT_ENDS,
    _CHAT_OPENERS,
    COLOURED_VOCABULARY,
    NOUNS,
    VOCABULARY,
    complete,
    describe,
    describe_distinct,
    parse,
)
from synthcap_mm.miniscenes.scenes import INVERSE, KINDS, Group, Scene, scene_of, scene_rng


def told(number=400, each=4):
    for i in range(number):
        scene = scene_of("test", 2, i)
        for caption in describe_distinct(scene, scene_rng("test", 2, i, 1), each):
            yield scene, caption


def test_parse_recovers_what_a_caption_says():
    for scene, caption in told():
        said = parse(caption)
        real = {g.kind: g for g in scene.groups}
        for group in said.groups:
            truth = real[group.kind]
            assert group.colour in (None, truth.colour), caption
            assert group.size in (None, truth.size), caption
            assert group.count in (None, truth.count), caption
            assert group.plural == (truth.count > 1), caption
        assert said.place in (None, scene.place), caption
        assert said.light in (None, scene.light), caption
        if said.other is not None and said.relation is not None:
            true = scene.relation if said.main.kind == scene.main.kind else INVERSE[scene.relation]
            alike = {"beside": ("left", "right"), "under": ("under", "below")}.get(said.relation, (said.relation,))
            assert true in alike, caption


def test_most_captions_describe_and_a_third_chat():
    said = [(scene, caption, parse(caption)) for scene, caption in told()]
    chatty = np.array([caption.startswith(_CHAT_OPENERS) and p.main.colour is None for _, caption, p in said])
    assert 0.25 < chatty.mean() < 0.45
    rest = [(s, p) for (s, _, p), chat in zip(said, chatty) if not chat]
    assert np.mean([p.main.colour is not None for _, p in rest]) > 0.75
    assert np.mean([p.other is not None for s, p in rest if s.other is not None]) > 0.75
    assert 0.1 < np.mean([p.place is not None for _, p in rest]) < 0.5
    # What a chatty caption adds is not about the scene: it names one group, and no place, light, colour or size.
    for (_, caption, p), chat in zip(said, chatty):
        if chat and caption.endswith(_CHAT_ENDS):
            assert (p.other, p.place, p.light, p.main.colour, p.main.size) == (None,) * 5, caption
    # None names what is not there.
    assert all({g.kind for g in p.groups} <= {g.kind for g in s.groups} for s, _, p in said)


def test_captions_read_like_captions():
    lengths = []
    for _, caption in told():
        assert caption == caption.lower()
        assert caption.replace(" ", "").isalpha(), caption
        words = caption.split()
        lengths.append(len(words))
        for article, word in itertools.pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou"), caption
    assert max(lengths) <= 26
    assert 8 <= np.median(lengths) <= 12


def test_five_people_write_five_captions_with_different_words():
    for i in range(60):
        captions = describe_distinct(scene_of("val", 0, i), scene_rng("val", 0, i, 1), 5)
        assert len(set(captions)) == 5
    scene = Scene("street", Group("bicycle", "red", "small", 2), None, None, "night", 0)
    text = " ".join(describe(scene, np.random.default_rng(i)) for i in range(40))
    for word in ("bikes", "bicycles", "small", "little", "street", "road", "night", "two", "there"):
        assert word in text


def test_describe_is_deterministic():
    scene = scene_of("val", 0, 1)
    assert describe(scene, np.random.default_rng(7)) == describe(scene, np.random.default_rng(7))


@pytest.mark.parametrize(
    ("caption", "place", "main", "other", "relation"),
    [
        ("A dog.", None, Group("dog", None, None, 1), None, None),
        (
            "two big red balls under a table in the kitchen",
            "kitchen",
            Group("ball", "red", "large", 2, True),
            Group("table", None, None, 1),
            "under",
        ),
        (
            "there is a lady in a green dress on the beach next to an orange umbrella",
            "beach",
            Group("woman", "green", None, 1),
            Group("umbrella", "orange", None, 1),
            "beside",
        ),
        (
            "a man in black in front of some buses",
            None,
            Group("man", "black", None, 1),
            Group("bus", None, None, None, True),
            "front",
        ),
    ],
)
def test_parse_of_written_captions(caption, place, main, other, relation):
    said = parse(caption)
    assert (said.place, said.main, said.other, said.relation) == (place, main, other, relation)


def test_a_caption_without_a_known_object_is_refused():
    with pytest.raises(ValueError, match=r"'a spaceship in the kitchen'.*known: man"):
        parse("a spaceship in the kitchen")


def test_complete_keeps_what_was_said_and_varies_the_rest():
    said = parse("a red car next to a dog")
    done = [complete(said, np.random.default_rng(i)) for i in range(60)]
    assert all(s.main.colour == "red" and s.main.kind == "car" and s.other.kind == "dog" for s in done)
    assert {s.relation for s in done} == {"left", "right"}
    assert len({s.place for s in done}) > 3
    assert len({s.other.colour for s in done}) == 4
    below = complete(parse("a car under a bird"), np.random.default_rng(0))
    assert (below.main.kind, below.relation, below.other.kind) == ("bird", "above", "car")


def test_vocabulary_names_each_kind_in_each_of_its_colours():
    with open(VOCABULARY_FILE, encoding="utf-8") as file:
        assert tuple(file.read().split("\n")[:-1]) == COLOURED_VOCABULARY
    assert len(set(VOCABULARY)) == len(KINDS) == len(NOUNS)
    assert [parse(f"a photo of a {name}").main.kind for name in VOCABULARY] == list(KINDS)
    read = [parse(f"a photo of a {name}").main for name in COLOURED_VOCABULARY]
    assert [(g.kind, g.colour) for g in read] == [(k.name, c) for k in KINDS.values() for c in k.colours]
