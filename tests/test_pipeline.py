"""The steps of a config that make stores, and that training refuses one of other settings."""

import copy

import pytest
from mmengine.config import Config
from store_files import files, make
from tiny_store import SEARCH

from synthcap_mm import pipeline
from synthcap_mm.errors import NotYet, UserError
from synthcap_mm.missing_inputs import pairs_store
from synthcap_mm.store import Store, StoreError


@pytest.fixture()
def cfg(tiny_synthesis, tiny_stores, tmp_path):
    store = tiny_stores[0]
    return Config(
        {
            "work_dir": str(tmp_path / "work"),
            "synthesis": {**copy.deepcopy(tiny_synthesis), "store": store},
            "model": {"type": "SynthCaptioner", "store": store, "data_preprocessor": {"type": "CaptionPreprocessor"}},
            "train_dataloader": {"dataset": {"type": "SynthPairDataset", "store": store, "refined": True}},
        }
    )


class Went(Exception):
    pass


def train(cfg, monkeypatch):
    """As far as building the runner; whether it got there."""

    def build_runner(cfg):
        raise Went

    monkeypatch.setattr(pipeline, "build_runner", build_runner)
    with pytest.raises(Went):
        pipeline.train(cfg)


def test_the_same_settings_are_trained_on(cfg, monkeypatch):
    train(cfg, monkeypatch)


def test_a_second_training_in_a_work_dir_is_refused(cfg, monkeypatch, tmp_path):
    def build_runner(first):
        with pytest.raises(UserError, match=f"{tmp_path}/work.*--work-dir"):
            pipeline.train(cfg)
        other = copy.deepcopy(cfg)
        other.work_dir = str(tmp_path / "other")
        train(other, monkeypatch)
        raise Went

    monkeypatch.setattr(pipeline, "build_runner", build_runner)
    with pytest.raises(Went):
        pipeline.train(cfg)
    train(cfg, monkeypatch)  # the lock ends with the training


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"refine": {"steps": 4, "lr": 0.01, "bank_size": 16}}, "refined/default: settings.steps"),
        ({"refine": None}, "refined/default"),
        ({"tokenizer": {"kind": "train", "vocab_size": 280}}, "tokenizer"),
        ({"tag_provider": {"type": "TinyTagger", "score": 0.5}}, "tags: tag_provider.score"),
        ({"generator": {"type": "TinyPainter", "size": 8}}, "size"),
        ({"holdout": 0.3}, "heldout"),
        ({"encoder": {"type": "TinyEncoder", "seed": 1}}, "text_features: encoder.seed"),
        ({"other_encoders": SEARCH}, "image_features/search: the store has none"),
    ],
)
def test_stale_tables_are_named_with_the_command(cfg, changes, named):
    cfg.synthesis.update(copy.deepcopy(changes))
    with pytest.raises(StoreError, match=rf"(?s){named}.*synthesize"):
        pipeline.train(cfg)
    cfg.train_dataloader.dataset = {"type": "ConcatDataset", "datasets": [cfg.train_dataloader.dataset]}
    with pytest.raises(StoreError, match=named):
        pipeline.train(cfg)


def test_tags_that_the_store_has_not_are_missed(cfg, tiny_synthesis):
    make(tiny_synthesis, tag_provider=None)
    for part in (cfg.synthesis, cfg.model, cfg.train_dataloader.dataset):
        part.store = tiny_synthesis["store"]
    with pytest.raises(StoreError, match="tags"):
        pipeline.train(cfg)


def test_what_is_not_used_may_be_stale(cfg, monkeypatch):
    cfg.synthesis.refine.steps = 4
    cfg.synthesis.tokenizer.vocab_size = 280
    cfg.synthesis.keep_images = True
    cfg.train_dataloader.dataset.refined = False
    cfg.model.data_preprocessor.tokenizer = "mine.json"
    train(cfg, monkeypatch)


# ---- the steps
@pytest.fixture()
def mine(tiny_synthesis, tmp_path):
    """A config whose store is still to be made."""
    photos = {"store": str(tmp_path / "photos"), "photos": {"type": "TinyPhotos"}, "shard_size": 5}
    curation = {"steps": [{"type": "clip_score", "keep": 0.5}], "refine": True}
    return Config({"config_name": "mine", "synthesis": tiny_synthesis, "photo_stores": [photos], "curation": curation})


def test_from_captions_to_curated_pairs(mine, tiny, tiny_stores, tmp_path):
    pipeline.synthesize(mine, dry_run=True)
    assert not list(tmp_path.iterdir())
    pipeline.synthesize(mine, only="text")
    with pytest.raises(NotYet):
        pipeline.synthesize(mine, task=(1, 2))
    pipeline.synthesize(mine, task=(0, 2))
    pipeline.synthesize(mine, task=(1, 2))
    assert pipeline.synthesize(mine)["captions"] == 40
    assert files(mine.synthesis.store) == files(tiny_stores[0])
    counts = pipeline.encode_images(mine)
    assert counts == {mine.photo_stores[0].store: {"photos": 12, "flagged": 0, "shards_made": 4, "shards_reused": 0}}
    assert files(mine.photo_stores[0].store) == files(tiny_stores[1])
    assert pipeline.curate(mine)["kept"] == 0.5
    store = Store.open(mine.synthesis.store)
    assert store.has("pairs/curated") and store.has("refined/curated")
    mine.curation = [{"type": "reassign"}]  # steps are enough
    assert pipeline.curate(mine)["steps"][0]["type"] == "reassign"
    assert not Store.open(mine.synthesis.store).has("refined/curated")


def test_a_second_encoder_is_named_once(mine, two_encoders):
    mine.synthesis.other_encoders = SEARCH
    mine.curation.search_encoder = "search"
    pipeline.synthesize(mine)
    pipeline.encode_images(mine)
    assert files(mine.synthesis.store) == files(two_encoders[0])
    assert files(mine.photo_stores[0].store) == files(two_encoders[1])
    pipeline.curate(mine)
    recipe = Store.open(mine.synthesis.store).recipe("pairs/curated")
    assert recipe["search_encoder"] == {"type": "TinyEncoder", "version": 1, "dim": 24, "name": "other", "seed": 7}
    del mine.synthesis.other_encoders
    pipeline.synthesize(mine)
    assert not Store.open(mine.synthesis.store).has("pairs/curated")  # it was made of what the config does not name


def test_photos_have_grids_where_the_images_have(mine):
    mine.synthesis.grids = True
    pipeline.encode_images(mine)
    assert Store.open(mine.photo_stores[0].store).grid_shape == (4, 48)


def test_a_limit_is_a_view_that_can_be_curated(mine):
    assert pipeline.synthesize(mine, limit=20)["captions"] == 20
    mine.synthesis.limit = 20
    pipeline.curate(mine)
    view = f"{mine.synthesis.store}/first20.json"
    assert pairs_store(mine) == view and Store.open(view).has("pairs/curated")
    del mine.synthesis["limit"]
    pipeline.synthesize(mine)
    assert not Store.open(mine.synthesis.store).has("pairs/curated") and Store.open(view).has("pairs/curated")


def test_a_limited_store_that_training_would_not_read_is_not_made(mine, tmp_path):
    mine.synthesis.limit = 20
    mine.train_dataloader = {"dataset": {"type": "SynthPairDataset", "store": mine.synthesis.store}}
    mine.auto_synthesize = True
    with pytest.raises(UserError, match="limit=20"):
        pipeline.train(mine)
    assert not list(tmp_path.iterdir())


def test_redrawing_is_passed_on(mine):
    pipeline.synthesize(mine)
    mine.synthesis.seed = 1
    with pytest.raises(UserError, match="--redraw"):
        pipeline.synthesize(mine)
    pipeline.synthesize(mine, redraw=True)
    assert Store.open(mine.synthesis.store).recipe("pairs/default")["seed"] == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"curation": None}, "'curation'"),
        ({"curation": {"steps": [{"type": "reassign"}], "colour": 3}}, "colour"),
        ({"curation": []}, "curation"),
        ({}, "no store"),
    ],
)
def test_what_the_user_can_mend(mine, changes, message):
    for name, value in changes.items():
        mine[name] = value
    with pytest.raises(UserError, match=message):
        pipeline.curate(mine)


def test_training_on_other_captions_than_the_configs_is_refused(cfg):
    cfg.synthesis.captions.num += 1
    with pytest.raises(UserError, match="captions"):
        pipeline.train(cfg)


def test_curated_pairs_of_other_settings_are_refused(cfg, tiny_synthesis):
    make(tiny_synthesis)  # a store of its own
    for part in (cfg.synthesis, cfg.model, cfg.train_dataloader.dataset):
        part.store = tiny_synthesis["store"]
    cfg.curation = {"steps": [{"type": "clip_score", "keep": 0.9}]}
    pipeline.curate(cfg)
    cfg.train_dataloader.dataset.update(pairs="curated", refined=False)
    cfg.curation.steps[0].keep = 0.5
    with pytest.raises(StoreError, match="keep"):
        pipeline.train(cfg)


def test_a_misspelt_setting_is_named(cfg):
    cfg.synthesis.holdot = 0.1
    with pytest.raises(UserError, match="holdout"):
        pipeline.synthesize(cfg)
