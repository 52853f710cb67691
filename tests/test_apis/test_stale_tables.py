"""Tables whose settings have changed since are not trained on."""

import copy

import pytest
from mmengine.config import Config

from synthcap_mm import pipeline as workflow
from synthcap_mm.store import StoreError


@pytest.fixture()
def cfg(tiny_synthesis, tiny_stores):
    store = tiny_stores[0]
    return Config(
        {
            "synthesis": {**copy.deepcopy(tiny_synthesis), "store": store},
            "model": {"type": "SynthCaptioner", "store": store, "data_preprocessor": {"type": "CaptionPreprocessor"}},
            "train_dataloader": {"dataset": {"type": "SynthPairDataset", "store": store, "refined": True}},
        }
    )


class Went(Exception):
    pass


def train(cfg, monkeypatch):
    """As far as building the runner; whether it got there."""

    def from_cfg(cfg):
        raise Went

    monkeypatch.setattr(workflow.Runner, "from_cfg", from_cfg)
    with pytest.raises(Went):
        workflow.train(cfg)


def test_the_same_settings_are_trained_on(cfg, monkeypatch):
    train(cfg, monkeypatch)


def test_stale_tables_are_named_with_the_command(cfg, monkeypatch):
    cfg.synthesis.refine.steps = 4
    with pytest.raises(StoreError) as told:
        train(cfg, monkeypatch)
    assert "refined/default: refine: the store has {'steps': 3" in str(told.value)
    assert "python tools/synthesize.py" in str(told.value) and "tokenizer" not in str(told.value)
    cfg.synthesis.tokenizer.vocab_size = 280
    with pytest.raises(StoreError, match=r"2 part\(s\) are stale"):
        train(cfg, monkeypatch)


def test_what_is_not_used_may_be_stale(cfg, monkeypatch):
    cfg.synthesis.refine.steps = 4
    cfg.synthesis.tokenizer.vocab_size = 280
    cfg.train_dataloader.dataset.refined = False
    cfg.model.data_preprocessor.tokenizer = "mine.json"
    train(cfg, monkeypatch)


def test_datasets_within_datasets_are_looked_at(cfg, monkeypatch):
    cfg.synthesis.refine = None
    cfg.train_dataloader.dataset = {"type": "ConcatDataset", "datasets": [cfg.train_dataloader.dataset]}
    with pytest.raises(StoreError, match="refined/default"):
        train(cfg, monkeypatch)
