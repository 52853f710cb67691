"""Checkpoints by rename."""

import io

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.runner.checkpoint import save_checkpoint

import synthcap_mm.engine
from synthcap_mm.engine import atomic_backend
from synthcap_mm.engine.atomic_backend import AtomicLocalBackend


def test_it_is_found_by_the_name_that_configs_use():
    assert isinstance(get_file_backend(backend_args={"backend": "atomic"}), AtomicLocalBackend)
    assert synthcap_mm.engine.AtomicLocalBackend is AtomicLocalBackend


def test_bytes_text_and_what_was_there_before(tmp_path):
    backend = AtomicLocalBackend()
    path = tmp_path / "deep" / "file"
    backend.put(b"one", path)
    backend.put(memoryview(b"two"), str(path))
    assert backend.get(path) == b"two"
    backend.put_text("drei ä", path)
    assert backend.get_text(path) == "drei ä"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_save_that_breaks_off_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = str(tmp_path / "epoch_1.pth")
    args = {"backend": "atomic"}
    save_checkpoint({"a": torch.ones(3)}, path, backend_args=args)

    def killed(*args):
        raise KeyboardInterrupt

    # after the bytes are written, before the file has its name
    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint({"a": torch.zeros(3)}, path, backend_args=args)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint({"a": torch.zeros(3)}, str(tmp_path / "epoch_2.pth"), backend_args=args)
    monkeypatch.undo()
    assert torch.load(path)["a"].tolist() == [1, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["epoch_1.pth"]


def test_checkpoints_are_written_through_it(tmp_path, monkeypatch):
    written = []
    original = atomic_backend.write_atomically
    monkeypatch.setattr(atomic_backend, "write_atomically", lambda path: written.append(str(path)) or original(path))
    path = str(tmp_path / "a.pth")
    save_checkpoint({"a": 1}, path, backend_args={"backend": "atomic"})
    assert written == [path]
    assert torch.load(io.BytesIO((tmp_path / "a.pth").read_bytes())) == {"a": 1}
