"""Stages alone, kept images, a part of the captions, and refusals that say what to do."""

import json
from pathlib import Path

import numpy as np
import pytest

from synthcap_mm.datasets import SynthPairDataset
from synthcap_mm.datasets.captions import Caption
from synthcap_mm.pairs import STAGES, PairFactory
from synthcap_mm.pairs.factory import caption_changes
from synthcap_mm.registry import DATASETS
from synthcap_mm.stores import OtherSettingsError, Store, StoreError, StoreLock


@DATASETS.register_module(force=True)
class SomeCaptions:
    def __init__(self, captions):
        self.captions = captions

    def read(self):
        return [Caption(*c) for c in self.captions]

    def describe(self):
        return f"{len(self.captions)} captions"


def files(path):
    return {
        p.relative_to(path).as_posix(): p.read_bytes()
        for p in sorted(Path(path).rglob("*"))
        if p.suffix in (".arrow", ".tar") or p.name == "tokenizer.json"
    }


@pytest.fixture()
def said(monkeypatch):
    from synthcap_mm.pairs import factory

    messages = []
    monkeypatch.setattr(factory, "print_log", lambda message, **kwargs: messages.append(message))
    return messages


@pytest.fixture()
def keeping(tiny_synthesis):
    return {**tiny_synthesis, "keep_images": True}


# ---- kept images
def test_kept_images_are_the_drawn_ones_and_the_rest_is_as_without(keeping, tiny, tiny_stores):
    PairFactory(**keeping).run()
    store = Store.open(keeping["store"], verify="full")
    captions = tiny.sentences(40)
    for row in (0, 15, 16, 39):
        drawn = tiny.TinyPainter().generate([captions[row].text], [store.pairs().value("seed", row)])[0]
        assert np.array_equal(np.asarray(store.image(row)), np.asarray(drawn))
    assert {n: b for n, b in files(store.path).items() if not n.endswith(".tar")} == files(tiny_stores[0])
    assert store.keeps_images and not Store.open(tiny_stores[0]).keeps_images
    with pytest.raises(StoreError, match=r"features only.*keep_images=True"):
        Store.open(tiny_stores[0]).image(0)


def test_a_damaged_tar_is_made_again_with_its_shard(keeping, tiny):
    PairFactory(**keeping).run()
    before = files(keeping["store"])
    path = Path(keeping["store"], "images_tar/00001.tar")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"images_tar/00001\.tar is damaged"):
        Store.open(keeping["store"], verify="full")
    drawn = tiny.TinyPainter.drawn
    assert PairFactory(**keeping).run()["shards_made"] == 1
    assert tiny.TinyPainter.drawn - drawn == 16 and files(keeping["store"]) == before


def test_keeping_or_not_is_another_store(keeping, tiny_stores):
    with pytest.raises(OtherSettingsError, match=r"keep_images: the store has None, the config asks for 'png'"):
        PairFactory(**{**keeping, "store": tiny_stores[0]}).run()


def test_a_pools_photos_are_not_kept_twice(keeping):
    keeping["generator"] = {"type": "RetrievalGenerator", "pool": {"type": "TinyPhotos", "num": 15}}
    with pytest.raises(ValueError, match="a retrieved photo is in its pool already"):
        PairFactory(**keeping).run()


@pytest.mark.parametrize(
    "changes, told", [({"keep_images": "gif"}, "keep_images is True, False, 'png' or 'jpg'"), ({"limit": 0}, "limit")]
)
def test_impossible_settings(tiny_synthesis, changes, told):
    with pytest.raises(ValueError, match=told):
        PairFactory(**{**tiny_synthesis, **changes})


# ---- one stage at a time
def test_one_stage_after_another_gives_the_store_of_one_run(keeping, said):
    for stage in STAGES:
        PairFactory(**keeping).run(only=stage)
        if stage != "refine":
            with pytest.raises(StoreError, match="not finished"):
                Store.open(keeping["store"])
    staged = Store.open(keeping["store"], verify="full")
    other = {**keeping, "store": keeping["store"] + "2"}
    PairFactory(**other).run()
    assert files(staged.path) == files(other["store"])
    unfinished = [m for m in said if "still to be made" in m]
    assert "images, images_tar, pairs/default, refined/default" in unfinished[0]
    assert "refined/default, tags;" in unfinished[1] and "refined/default;" in unfinished[2]


def test_without_kept_images_tags_are_found_while_they_are_drawn(tiny_synthesis, tiny_stores):
    for stage in ("text", "images", "tags", "refine"):
        counts = PairFactory(**tiny_synthesis).run(only=stage)
        assert (counts["shards_made"] == 0) == (stage == "tags")
    assert files(tiny_synthesis["store"]) == files(tiny_stores[0])


def test_a_whole_run_goes_on_from_single_stages(keeping, tiny):
    PairFactory(**keeping).run(only="text")
    PairFactory(**keeping).run(only="images")
    drawn = tiny.TinyPainter.drawn
    PairFactory(**keeping).run()
    assert tiny.TinyPainter.drawn == drawn
    assert [t.name for t in Store.open(keeping["store"]).tags(0)][1] == "speck"


@pytest.mark.parametrize(
    "stage, told",
    [
        ("images", "--only images builds on the table captions, of which 3 of 3 shards are missing"),
        ("tags", "--only tags builds on the table images, of which 3 of 3.*--only images first"),
        ("refine", "--only refine builds on the table captions.*--only text first"),
    ],
)
def test_what_a_stage_builds_on_must_be_there(keeping, stage, told):
    with pytest.raises(StoreError, match=told):
        PairFactory(**keeping).run(only=stage)


@pytest.mark.parametrize(
    "stage, changes, told",
    [
        ("images", {"generator": None}, "synthesis.generator is not set"),
        ("tags", {"tag_provider": None}, "synthesis.tag_provider is not set"),
        ("refine", {"refine": None}, "synthesis.refine is not set"),
        ("refine", {"generator": None}, "synthesis.generator is not set"),
        ("paint", {}, "only= is one of text, images, tags, refine"),
    ],
)
def test_stages_that_are_not_asked_for(tiny_synthesis, stage, changes, told):
    with pytest.raises(ValueError, match=told):
        PairFactory(**{**tiny_synthesis, **changes}).run(only=stage)
    assert not Path(tiny_synthesis["store"]).exists()


# ---- tags later
def other_tags(settings):
    return {**settings, "tag_provider": {"type": "TinyTagger", "score": 0.5}}


@pytest.mark.parametrize("first", ["nobody", "another"])
def test_tags_on_kept_images_later(keeping, tiny, first):
    PairFactory(**({**keeping, "tag_provider": None} if first == "nobody" else keeping)).run()
    features, drawn = Store.open(keeping["store"]).images.features(), tiny.TinyPainter.drawn
    with pytest.raises(OtherSettingsError, match=r"--only tags finds the tags anew and draws nothing"):
        PairFactory(**other_tags(keeping)).run()
    assert PairFactory(**other_tags(keeping)).run(only="tags")["shards_made"] == 3
    store = Store.open(keeping["store"], verify="full")
    assert tiny.TinyPainter.drawn == drawn
    assert store.tags(7)[0].score == 0.5 and store.manifest["tag_provider"]["score"] == 0.5
    np.testing.assert_array_equal(store.images.features(), features)
    same_pass = {**other_tags(keeping), "store": keeping["store"] + "2"}
    PairFactory(**same_pass).run()
    assert files(store.path) == files(same_pass["store"])
    assert PairFactory(**other_tags(keeping)).run()["shards_made"] == 0


def test_tags_of_a_pools_photos_later(tiny_synthesis):
    tiny_synthesis["generator"] = {"type": "RetrievalGenerator", "pool": {"type": "TinyPhotos", "num": 35}}
    PairFactory(**tiny_synthesis).run()
    PairFactory(**other_tags(tiny_synthesis)).run(only="tags")
    same_pass = {**other_tags(tiny_synthesis), "store": tiny_synthesis["store"] + "2"}
    PairFactory(**same_pass).run()
    assert files(tiny_synthesis["store"]) == files(same_pass["store"])


def test_tags_that_were_stopped_go_on_where_they_were(keeping, tiny, monkeypatch):
    PairFactory(**keeping).run()
    detect, calls = tiny.TinyTagger.detect, []

    def stopping(self, images):
        calls.append(1)
        if len(calls) == 6:  # the second shard's second batch
            raise KeyboardInterrupt
        return detect(self, images)

    monkeypatch.setattr(tiny.TinyTagger, "detect", stopping)
    with pytest.raises(KeyboardInterrupt):
        PairFactory(**other_tags(keeping)).run(only="tags")
    monkeypatch.setattr(tiny.TinyTagger, "detect", detect)
    with pytest.raises(StoreError, match="not finished"):  # tags of two providers are mixed in it
        Store.open(keeping["store"])
    with pytest.raises(OtherSettingsError, match=r"tag_provider.score"):
        PairFactory(**keeping).run()
    assert PairFactory(**other_tags(keeping)).run()["shards_made"] == 2
    assert {Store.open(keeping["store"]).tags(i)[0].score for i in range(40)} == {0.5}


def test_tags_without_kept_images_cannot_change(tiny_synthesis, tiny_stores):
    with pytest.raises(OtherSettingsError, match=r"tag_provider.score"):
        PairFactory(**{**other_tags(tiny_synthesis), "store": tiny_stores[0]}).run(only="tags")


# ---- a part of the captions
def test_the_first_captions_are_a_store_of_their_own(tiny_synthesis):
    PairFactory(**tiny_synthesis).run()
    before = files(tiny_synthesis["store"])
    factory = PairFactory(**{**tiny_synthesis, "limit": 10})
    assert factory.run()["captions"] == 10 and str(factory.store) == tiny_synthesis["store"] + "_first10"
    assert files(tiny_synthesis["store"]) == before
    part, whole = Store.open(factory.store), Store.open(tiny_synthesis["store"])
    assert part.captions.strings("id") == whole.captions.strings("id")[:10]
    np.testing.assert_array_equal(part.images.features(), whole.images.features()[:10])


# ---- a dry run
def test_a_dry_run_measures_and_leaves_nothing(keeping, tmp_path, said):
    plan = PairFactory(**keeping).dry_run(batches=2)
    assert list(tmp_path.iterdir()) == []
    assert [s.name for s in plan.stages] == ["text", "images", "kept images", "pairs", "refine"]
    assert all(len(s.missing) == 3 for s in plan.stages)
    assert plan.seconds_to_do > 0 and all(plan.stage(n).seconds > 0 for n in ("text", "images", "refine"))
    assert "stage        shards    done   to do" in said[0] and "TinyPainter size=16" in said[0]
    assert "whose size --dry-run measures" in said[0] and "expected on 1 rank(s)" in plan.describe()
    PairFactory(**keeping).run()
    written = sum(p.stat().st_size for p in Path(keeping["store"]).rglob("*.*") if p.suffix in (".arrow", ".tar"))
    assert plan.bytes_to_do == pytest.approx(written, rel=0.35)  # the files of so few rows are mostly heads


def test_a_dry_run_knows_what_is_there_and_does_not_touch_it(tiny_synthesis, tiny_stores, said):
    before = {p: p.stat().st_mtime_ns for p in Path(tiny_stores[0]).rglob("*")}
    plan = PairFactory(**{**tiny_synthesis, "store": tiny_stores[0]}).dry_run()
    assert [s.todo for s in plan.stages] == [0, 0, 0, 0] and plan.bytes_to_do == 0 and plan.seconds_to_do == 0
    assert {p: p.stat().st_mtime_ns for p in Path(tiny_stores[0]).rglob("*")} == before
    with pytest.raises(OtherSettingsError, match="seed"):
        PairFactory(**{**tiny_synthesis, "store": tiny_stores[0], "seed": 1}).dry_run()


# ---- refusals
def test_two_jobs_on_one_store(tiny_synthesis, tiny):
    drawn = tiny.TinyPainter.drawn
    with StoreLock(tiny_synthesis["store"]), pytest.raises(StoreError, match=r"another job is at work on the store"):
        PairFactory(**tiny_synthesis).run()
    assert tiny.TinyPainter.drawn == drawn and not list(Path(tiny_synthesis["store"]).iterdir())
    PairFactory(**tiny_synthesis).run()
    assert not Path(tiny_synthesis["store"], ".lock").exists()


def test_a_store_of_a_newer_version_is_left_alone(tiny_synthesis):
    PairFactory(**tiny_synthesis).run()
    file = Path(tiny_synthesis["store"], "manifest.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 2}))
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"schema 2.*update synthcap_mm.*Nothing was touched"):
        PairFactory(**tiny_synthesis).run()
    assert file.read_bytes() == before


def listed(tiny, **changes):
    captions = {c.id: [c.id, c.text, c.group] for c in tiny.sentences(12)}
    for caption_id, new in changes.items():
        if new is None:
            del captions[caption_id]
        else:
            captions[new[0]] = captions.pop(caption_id) if len(new) == 1 else new
    return {"type": "SomeCaptions", "captions": list(captions.values())}


@pytest.mark.parametrize(
    "changes, told",
    [
        (
            {"c3": ["c3", "something else", "g1"]},
            r"1 have another text \(the first: 'c3', 'a .*' in the store, 'something else' now",
        ),
        ({"c3": None}, r"1 of the store's are gone \(the first: 'c3'"),
        ({"z": ["z", "a new one", None]}, r"1 are not in the store \(the first: 'z', 'a new one'\)"),
        ({"c3": ["c3", None, "other"]}, r"1 have another group \(the first: 'c3'\)"),
    ],
)
def test_captions_that_changed_are_told(tiny_synthesis, tiny, changes, told):
    settings = {**tiny_synthesis, "captions": listed(tiny)}
    PairFactory(**settings).run()
    before = files(settings["store"])
    if changes.get("c3") and changes["c3"][1] is None:
        changes["c3"][1] = tiny.sentences(12)[3].text
    with pytest.raises(OtherSettingsError, match=f"ids and rows no longer match: .*{told}") as caught:
        PairFactory(**{**settings, "captions": listed(tiny, **changes)}).run()
    assert caught.value.fields == ["captions"] and files(settings["store"]) == before


def test_captions_in_another_order_are_told(tiny_stores, tiny):
    assert "another order" in caption_changes(Path(tiny_stores[0]), tiny.sentences(40)[::-1])


# ---- versions, flags, summary
def test_other_versions_are_recorded_and_told_where_shards_are_made(tiny_synthesis, monkeypatch, said):
    from synthcap_mm.pairs import factory

    PairFactory(**tiny_synthesis).run()
    versions = factory.library_versions()
    monkeypatch.setattr(factory, "library_versions", lambda: {**versions, "torch": "9.9"})
    PairFactory(**tiny_synthesis).run()
    assert not any("other versions" in m for m in said)
    Path(tiny_synthesis["store"], "images/00001.arrow").unlink()
    PairFactory(**tiny_synthesis).run()
    assert any(f"torch {versions['torch']} → 9.9" in m for m in said)
    manifest = Store.open(tiny_synthesis["store"]).manifest
    assert [r["made_with"] for r in manifest["tables"]["images"]["shards"]] == [0, 1, 0]
    assert [v["torch"] for v in manifest["libraries"]] == [versions["torch"], "9.9"]
    assert manifest["libraries"][0]["device"] == "cpu"


def test_flagged_images_are_counted_listed_and_left_out(tiny_synthesis, tiny, said):
    captions = [[c.id, c.text, c.group] for c in tiny.sentences(10)]
    captions[3][1] = captions[7][1] = "a blank picture"
    settings = {**tiny_synthesis, "captions": {"type": "SomeCaptions", "captions": captions}, "shard_size": 4}
    assert PairFactory(**settings).run()["flagged"] == 2
    summary = next(m for m in said if m.startswith("summary"))
    assert "flagged: 2 black: c3/0, c7/0 (all: Store.open(...).flagged())" in summary
    assert settings["store"] in summary and "10 captions, 10 images" in summary
    store = Store.open(settings["store"])
    assert store.flagged() == {"c3/0": ["black"], "c7/0": ["black"]}
    assert [r["flags"] for r in store.manifest["tables"]["images"]["shards"]] == [{"black": 1}, {"black": 1}, {}]
    served = SynthPairDataset(settings["store"])
    assert not {"c3", "c7"} & {served[i].key for i in range(len(served))}
    assert served.metainfo["left_out"] == 2 - len({"c3", "c7"} & {store.captions.value("id", int(r)) for r in store.caption_rows("heldout")})  # fmt: skip
