"""The checkpoints in a work dir."""

import shutil

import pytest

from synthcap_mm.checkpoints import checkpoint_folder, latest_checkpoint


@pytest.fixture()
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("epoch_2.pth", "epoch_10.pth", "iter_7.pth"):
        (folder / name).touch()
    (folder / "last_checkpoint").write_text(str(folder / "iter_7.pth"))
    return folder


def test_the_last_checkpoint_is_the_work_dirs_own(work, tmp_path):
    assert latest_checkpoint(str(work), {}) == str(work / "iter_7.pth")
    copy = shutil.copytree(work, tmp_path / "copy")
    assert latest_checkpoint(str(copy), {}) == str(copy / "iter_7.pth")
    (copy / "iter_7.pth").unlink()
    assert latest_checkpoint(str(copy), {}) == str(copy / "epoch_10.pth")


@pytest.mark.parametrize("content", ["", "/", "..", "\n"])
def test_a_damaged_pointer_leaves_the_last_epoch(work, content):
    (work / "last_checkpoint").write_text(content)
    assert latest_checkpoint(str(work), {}) == str(work / "epoch_10.pth")
    for path in work.glob("epoch_*.pth"):
        path.unlink()
    assert latest_checkpoint(str(work), {}) is None


def test_checkpoints_may_lie_in_another_folder(work, tmp_path):
    cfg = {"default_hooks": {"checkpoint": {"out_dir": str(tmp_path / "kept")}}}
    assert checkpoint_folder(f"{work}/", cfg) == tmp_path / "kept" / "work"
    assert latest_checkpoint(str(work), cfg) is None
    shutil.copytree(work, tmp_path / "kept" / "work")
    assert latest_checkpoint(str(work), cfg) == str(tmp_path / "kept" / "work" / "iter_7.pth")
