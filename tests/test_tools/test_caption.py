"""From a checkpoint to an export, and from photos to captions, as one types it."""

import json

import pytest
from command_line import run_command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the mini-world's captioner was trained for a moment."""
    folder = tmp_path_factory.mktemp("trained")
    options = [
        "synthesis.captions.num=60", "synthesis.holdout=0.2", "photo_stores.0.photos.num=6",
        "photo_stores.1.photos.num=6", "train_cfg.max_epochs=1", "model.head.layers=1", "gallery.num=0",
        "test_best=False", "train_dataloader.batch_size=20",
    ]  # fmt: skip
    run_command(folder, "train", "synthcap_mini.py", "--cfg-options", *options)
    (checkpoint,) = (folder / "work_dirs" / "synthcap_mini").glob("epoch_*.pth")
    from synthcap_mm.miniscenes.sources import MiniScenesPhotos

    (folder / "photos").mkdir()
    for i in range(5):
        MiniScenesPhotos("test", 5).load(i).save(folder / "photos" / f"a photo {i} é.png")
    (folder / "photos" / "broken.jpg").write_bytes(b"")
    return folder, checkpoint


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_caption_and_export(trained):
    folder, checkpoint = trained
    # The config with what it was trained with, as train left it beside the checkpoint.
    config = checkpoint.parent / "synthcap_mini.py"
    said = run_command(folder, "caption", config, checkpoint, "photos", "--out", "out/a.jsonl", "--num-beams", 2)
    assert "captions: 5 written, 0 found from before, 1 images could not be read" in said
    found = rows(folder / "out" / "a.jsonl")
    assert sum("caption" in row for row in found) == 5
    assert [r["image"] for r in found if "error" in r] == ["photos/broken.jpg"]
    said = run_command(folder, "export", config, checkpoint, "export")
    assert "held-out pictures have the same caption as before" in said
    (folder / "data").rename(folder / "data gone")
    try:
        run_command(folder, "caption", "export", "photos/a*.png", "--out", "out/b.jsonl", "--num-beams", 2)
    finally:
        (folder / "data gone").rename(folder / "data")
    assert rows(folder / "out" / "b.jsonl") == [row for row in found if "caption" in row]


def test_mistakes_end_with_a_sentence(trained, tmp_path):
    folder, checkpoint = trained
    (tmp_path / "empty").mkdir()
    for args, word in (
        (["synthcap_mini.py", "photos"], "synthcap_mini.py"),
        (["synthcap_mini.py", "none.pth", "photos"], "none.pth"),
        (["photos", "photos"], "photos"),
        (["synthcap_mini.py", checkpoint, tmp_path / "empty"], str(tmp_path / "empty")),
        (["synthcap_min.py", checkpoint, "photos"], "synthcap_mini.py"),
    ):
        assert word in run_command(folder, "caption", *args, "--out", "x.jsonl", status=1)
    assert "photos" in run_command(folder, "export", "synthcap_mini.py", checkpoint, "photos", status=1)
