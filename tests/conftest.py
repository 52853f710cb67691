"""Fixtures that tests share."""

import copy
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from tiny_store import SEARCH, tiny_settings  # noqa: E402


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data; skips, loudly, where there is none."""
    folder = Path(os.environ.get("SYNTHCAP_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"REAL DATA ABSENT: nothing at {folder}; set SYNTHCAP_REAL_DATA to run this test")
    return folder


@pytest.fixture(autouse=True)
def _default_scope_is_ours():
    """Each test begins with our scope as MMEngine's default, as the tools set it."""
    from mmengine.registry import init_default_scope

    init_default_scope("synthcap_mm")


@pytest.fixture(scope="session")
def tiny():
    """The module of tests/components.py, its components registered."""
    import components

    return components


@pytest.fixture()
def tiny_synthesis(tmp_path, tiny):
    """Settings of a small store of pairs; see ``tiny_settings``."""
    return tiny_settings(tmp_path / "store")


@pytest.fixture(scope="session")
def tiny_stores(tmp_path_factory, tiny):
    """A made store of pairs and one of photos: ``(pairs, photos)`` paths."""
    from mmengine.registry import init_default_scope

    from synthcap_mm.synthesis.photos import PhotoStore
    from synthcap_mm.synthesis.synthesis import Synthesis

    init_default_scope("synthcap_mm")
    root = tmp_path_factory.mktemp("stores")
    Synthesis(**tiny_settings(root / "pairs")).run()
    photos, encoder, tagger = ({"type": name} for name in ("TinyPhotos", "TinyEncoder", "TinyTagger"))
    PhotoStore(str(root / "photos"), photos, encoder, tagger, shard_size=5).run()
    return str(root / "pairs"), str(root / "photos")


@pytest.fixture(scope="session")
def two_encoders(tmp_path_factory, tiny):
    """As ``tiny_stores``, with a second encoder, ``'search'``, in both."""
    from mmengine.registry import init_default_scope

    from synthcap_mm.synthesis.photos import PhotoStore
    from synthcap_mm.synthesis.synthesis import Synthesis

    init_default_scope("synthcap_mm")
    root = tmp_path_factory.mktemp("two")
    Synthesis(**tiny_settings(root / "pairs"), other_encoders=SEARCH).run()
    photos, encoder, tagger = ({"type": name} for name in ("TinyPhotos", "TinyEncoder", "TinyTagger"))
    PhotoStore(str(root / "photos"), photos, encoder, tagger, shard_size=5, other_encoders=SEARCH).run()
    return str(root / "pairs"), str(root / "photos")


@pytest.fixture()
def tiny_model(tiny_stores):
    """Config of a captioner on the tiny store."""
    pairs, _ = tiny_stores
    return copy.deepcopy(
        {
            "type": "SynthCaptioner",
            "store": pairs,
            "data_preprocessor": {"type": "CaptionPreprocessor", "prompt": {"min_score": 0.2}, "max_length": 16},
            "necks": {
                "memory": {"type": "TextMemoryProjection", "temperature": 0.05},
                "projector": {"type": "PrefixProjector", "prefix_length": 2},
            },
            "head": {"type": "GPT2CaptionHead", "width": 32, "layers": 2, "heads": 2, "positions": 80},
        }
    )
