"""A config names its encoder once."""

from mmengine.config import Config

from synthcap_mm.config_reading import read_config
from synthcap_mm.engine.shared_encoder import share_encoder


def test_tags_of_datasets_and_a_reranker_have_the_stores_encoder():
    changed = ["synthesis.encoder.type=Mine"]
    cfg = read_config("viecap/viecap_mini.py", changed)
    share_encoder(cfg)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.tags["encoder"] == {"type": "Mine"}
    assert "encoder" not in cfg.train_dataloader.dataset.tags and "backbone" not in cfg.model  # CaptionEntities
    cfg.test_dataloader.dataset = {"type": "CaptionEvalDataset", "photos": {"type": "PhotoFolder", "root": "photos"}}
    for encoding in (cfg, read_config("synthcap/synthcap_plus_mini.py", changed)):
        share_encoder(encoding)
        assert encoding.model.backbone == {"type": "Mine"}


def test_one_that_is_named_stays_and_datasets_within_are_looked_into():
    def tags(**options):
        return {"type": "CLIPTagProvider", "vocabulary": ["a", "b"], **options}

    inner = [{"type": "D", "tags": tags()}, {"type": "D", "tags": tags(encoder={"type": "Own"})}]
    cfg = Config({
        "synthesis": {"encoder": {"type": "Ours"}},
        "model": {"rerank": {"type": "CaptionRanker"}, "backbone": {"type": "Own"}},
        "test_dataloader": {"dataset": {"type": "ConcatDataset", "datasets": inner}},
        "val_dataloader": None,
    })  # fmt: skip
    cfg.synthesis.other_encoders = {"search": {"type": "Theirs"}}
    share_encoder(cfg)
    assert cfg.model.other_backbones == {"search": {"type": "Theirs"}}
    first, second = cfg.test_dataloader.dataset.datasets
    assert (first.tags["encoder"], second.tags["encoder"]) == ({"type": "Ours"}, {"type": "Own"})
    assert cfg.model.backbone == {"type": "Own"}
