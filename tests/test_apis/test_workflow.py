"""The steps of a config, with small parts."""

from pathlib import Path

import pytest
from mmengine.config import Config

from synthcap_mm.missing_inputs import missing_inputs
from synthcap_mm.pipeline import curate, synthesize, train
from synthcap_mm.store import Store, StoreError


@pytest.fixture()
def limited(tiny_synthesis):
    """A config whose synthesis has a limit, and whose training reads the store without it."""
    reading = {"dataset": {"type": "SynthPairDataset", "store": tiny_synthesis["store"]}}
    return Config(
        {
            "config_name": "limited",
            "synthesis": {**tiny_synthesis, "limit": 20},
            "train_dataloader": reading,
            "auto_synthesize": True,
        }
    )


def test_a_limit_of_the_config_is_the_store_that_is_looked_at(limited):
    made = Path(f"{limited.synthesis.store}_first20")
    assert synthesize(limited, missing_only=True)["captions"] == 20
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    assert synthesize(limited, missing_only=True) == {}
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before
    assert not Path(limited.synthesis.store).exists()
    # curating takes the same store
    limited.curation = [{"type": "clip_score"}]
    curate(limited)
    assert Store.open(made).has("pairs/curated")
    limited.synthesis.seed = 1
    with pytest.raises(StoreError, match=r"(?s)store_first20 was made with other settings.*seed: the store has 0"):
        synthesize(limited, missing_only=True)


def test_a_limit_does_not_hide_captions_that_changed(limited):
    synthesize(limited)
    limited.synthesis.captions.num = 30  # of which the first twenty are the same
    assert synthesize(limited, missing_only=True) == {}
    limited.synthesis.captions.num = 18
    with pytest.raises(StoreError, match="captions: the store has 20, the config asks for 18"):
        synthesize(limited, missing_only=True)


def test_a_store_that_training_would_not_read_is_not_made(limited):
    told = r"synthesis.limit=20 makes the store .*store_first20, but training reads .*store:"
    with pytest.raises(StoreError, match=told):
        train(limited)
    assert not Path(f"{limited.synthesis.store}_first20").exists()
    (line,) = missing_inputs(limited, "train")
    assert "there is no store at" in line and "but training reads" in line
    limited.synthesis.pop("limit")
    (line,) = missing_inputs(limited, "train")
    assert "→ python tools/synthesize.py limited" in line
