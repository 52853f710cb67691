"""What the commands' tests share: the mini-world made small, and a captioner trained on it once."""

import pytest
from command_line import run_command

SMALL = [
    "synthesis.captions.num=80", "synthesis.holdout=0.2", "synthesis.shard_size=32", "synthesis.tokenizer.vocab_size=400",
    "photo_stores.0.photos.num=9", "photo_stores.1.photos.num=3", "train_cfg.max_epochs=2", "model.head.layers=1",
    "model.head.generation.num_beams=2", "train_dataloader.batch_size=16", "test_dataloader.batch_size=4", "gallery.num=3",
]  # fmt: skip


@pytest.fixture(scope="session")
def small():
    """Options that make the mini-world small."""
    return SMALL


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which ``synthcap_mini.py`` was trained for two epochs into ``work``, and what was printed."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, run_command(folder, "train", "synthcap_mini.py", "--work-dir", "work", "--cfg-options", *SMALL)


@pytest.fixture(scope="session")
def best(trained):
    """The best checkpoint of that training."""
    (checkpoint,) = (trained[0] / "work").glob("best_CIDEr_epoch_*.pth")
    return checkpoint
