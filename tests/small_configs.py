"""Shipped configs, made small: on stores of random features, with encoders of random matrices."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from synthcap_mm.engine.shared_encoder import share_encoder
from synthcap_mm.store import Store
from synthcap_mm.synthesis.curation import Curation

ROOT = Path(__file__).resolve().parents[1]
#: Of the features.
WIDTH = 64


def replaced(value, names, encoder):
    """The same, with other stores and another encoder."""
    if isinstance(value, dict):
        if value.get("type") in ("MiniCLIP", "OpenCLIPBackbone", "SentenceEncoder"):
            return ConfigDict(encoder)
        return ConfigDict({k: replaced(v, names, encoder) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return [replaced(v, names, encoder) for v in value]
    return names.get(value, value) if isinstance(value, str) else value


def small(name, stores):
    """A config with small parts, and its stores made."""
    cfg = Config.fromfile(ROOT / "configs" / name)
    pairs, photos = stores(WIDTH, tuple(cfg.synthesis.get("other_encoders") or ()))
    names = {entry.store: photos for entry in cfg.get("photo_stores", [])} | {cfg.model.store: pairs}
    share_encoder(cfg)
    cfg = Config(replaced(cfg._cfg_dict, names, {"type": "TinyEncoder", "dim": WIDTH}))
    # A pretrained decoder and its tokenizer are files that are not at hand; tests/test_engine has one in their format.
    if cfg.model.head.pop("pretrained", None):
        del cfg.model.data_preprocessor["tokenizer"]
        cfg.model.head.pop("lora", None)  # tests/test_models/test_heads/test_lora.py
        cfg.model.head.positions = 256
    cfg.model.head.update(width=32, layers=1, heads=2, generation={"num_beams": 2})
    data = cfg.train_dataloader.dataset
    if data.get("pairs", "default") not in ("default", None) and not Store.open(pairs).has(f"pairs/{data.pairs}"):
        assert Curation(store=pairs, **cfg.curation).run()["kept"] > 0
    return cfg
