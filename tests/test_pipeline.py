"""The steps of a config, with small parts."""

import copy

import pytest
from mmengine.config import Config

from synthcap_mm import pipeline
from synthcap_mm.errors import UserError
from synthcap_mm.missing_inputs import missing_inputs
from synthcap_mm.pipeline import curate, synthesize, train
from synthcap_mm.store import Store


@pytest.fixture()
def limited(tiny_synthesis):
    """A config whose synthesis has a limit, and whose training reads the store without it."""
    reading = {"dataset": {"type": "SynthPairDataset", "store": tiny_synthesis["store"]}}
    synthesis = {**tiny_synthesis, "limit": 20}
    return Config(
        {"config_name": "limited", "synthesis": synthesis, "train_dataloader": reading, "auto_synthesize": True}
    )


def test_a_limit_of_the_config_is_the_view_that_is_made_and_curated(limited):
    assert synthesize(limited)["captions"] == 20
    assert synthesize(limited)["shards_made"] == 0
    limited.curation = [{"type": "clip_score"}]
    curate(limited)
    view = Store.open(f"{limited.synthesis.store}/first20.json")
    assert view.has("pairs/curated") and len(view.captions) == 20
    with pytest.raises(UserError):  # the whole was not made
        Store.open(limited.synthesis.store)


def test_a_store_that_training_would_not_read_is_not_made(limited, tmp_path):
    with pytest.raises(UserError, match=r"synthesis.limit=20"):
        train(limited)
    assert not (tmp_path / "store").exists()
    (line,) = missing_inputs(limited, "train")
    assert "synthesis.limit=20" in line
    limited.synthesis.pop("limit")
    (line,) = missing_inputs(limited, "train")
    assert "synthesize" in line


# ---- a store of other settings
class _Began(Exception):
    """The runner would have been built."""


@pytest.fixture()
def cfg(tiny_synthesis, tiny_stores, monkeypatch):
    """A config whose training goes as far as the runner."""

    def build_runner(cfg):
        raise _Began

    monkeypatch.setattr(pipeline, "build_runner", build_runner)
    store = tiny_stores[0]
    return Config(
        {
            "synthesis": {**copy.deepcopy(tiny_synthesis), "store": store},
            "model": {"type": "SynthCaptioner", "store": store, "data_preprocessor": {"type": "CaptionPreprocessor"}},
            "train_dataloader": {"dataset": {"type": "SynthPairDataset", "store": store, "refined": True}},
        }
    )


def test_a_store_of_the_same_settings_is_trained_on(cfg):
    with pytest.raises(_Began):
        train(cfg)
    cfg.synthesis.image_batch = 3  # decides nothing
    with pytest.raises(_Began):
        train(cfg)


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("seed", 7, "seed: 0 → 7"),
        ("refine.steps", 4, "steps: 3 → 4"),
        ("tokenizer.vocab_size", 280, "vocab_size: 300 → 280"),
        ("generator.size", 8, "size: None → 8"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_store_of_other_settings_is_refused_naming_them(cfg, option, value, said, nested):
    cfg.merge_from_dict({f"synthesis.{option}": value})
    if nested:
        cfg.train_dataloader.dataset = {"type": "ConcatDataset", "datasets": [cfg.train_dataloader.dataset]}
    with pytest.raises(UserError, match=said):
        train(cfg)


def test_what_is_not_used_may_differ(cfg):
    cfg.synthesis.refine.steps = 4
    cfg.synthesis.tokenizer.vocab_size = 280
    cfg.train_dataloader.dataset.refined = False
    cfg.model.data_preprocessor.tokenizer = "mine.json"
    with pytest.raises(_Began):
        train(cfg)
