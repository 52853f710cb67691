import itertools

import numpy as np
import pytest

from synthcap_mm.miniscenes.language import (
    _CHAT_ENDS,
    _CHAT_OPENERS,
    NOUNS,
    PLAIN,
    VOCABULARY,
    WEB,
    coloured_name,
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


def test_captions_describe_what_is_there():
    said = [(scene, parse(caption)) for scene, caption in told()]
    assert np.mean([p.main.colour is not None for _, p in said]) > 0.75
    assert np.mean([p.other is not None for s, p in said if s.other is not None]) > 0.75
    assert 0.1 < np.mean([p.place is not None for _, p in said]) < 0.5
    # None names what is not there.
    assert all({g.kind for g in p.groups} <= {g.kind for g in s.groups} for s, p in said)


def test_on_the_web_some_chat_and_say_little():
    def share(tellers):
        found = []
        for i in range(800):
            caption = describe(scene_of("clip", 2, i), scene_rng("clip", 2, i, 1), tellers)
            said = parse(caption)
            chat = caption.startswith(_CHAT_OPENERS) and said.main.colour is None and caption.endswith(_CHAT_ENDS)
            found.append(chat)
            if chat:
                # What is added is not about the scene: one group is named, and no place, light, colour or size.
                assert (said.other, said.place, said.light, said.main.colour, said.main.size) == (None,) * 5, caption
        return np.mean(found)

    assert 0.1 < share(WEB) < 0.25
    assert share(PLAIN) == 0


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


@pytest.mark.parametrize(("caption", "place", "main", "other", "relation"), [
    ("A dog.", None, Group("dog", None, None, 1), None, None),
    ("two big red balls under a table in the kitchen", "kitchen", Group("ball", "red", "large", 2, True),
     Group("table", None, None, 1), "under"),
    ("there is a lady in a green dress on the beach next to an orange umbrella", "beach",
     Group("woman", "green", None, 1), Group("umbrella", "orange", None, 1), "beside"),
    ("a man in black in front of some buses", None, Group("man", "black", None, 1),
     Group("bus", None, None, None, True), "front"),
])  # fmt: skip
def test_parse_of_written_captions(caption, place, main, other, relation):
    said = parse(caption)
    assert (said.place, said.main, said.other, said.relation) == (place, main, other, relation)


def test_a_caption_without_a_known_object_is_refused():
    with pytest.raises(ValueError, match="spaceship"):
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


def test_names_of_kinds_and_of_coloured_kinds_are_read_back():
    assert len(set(VOCABULARY)) == len(KINDS) == len(NOUNS)
    assert [parse(f"a photo of a {name}").main.kind for name in VOCABULARY] == list(KINDS)
    pairs = [(k.name, colour) for k in KINDS.values() for colour in k.colours]
    read = [parse(f"a photo of a {coloured_name(*pair)}").main for pair in pairs]
    assert [(g.kind, g.colour) for g in read] == pairs
