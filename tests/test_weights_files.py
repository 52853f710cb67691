"""Weights are read by what a file holds; nothing in it is executed, and damage is found."""

import os
import random
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file

import synthcap_mm.engine  # noqa: F401 - its loaders take the place of MMEngine's
from synthcap_mm.errors import UserError
from synthcap_mm.weights_files import local_file, read_checkpoint, state_dict_of, trusted_checkpoints


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture()
def weights():
    return {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.float16)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_a_file_is_is_seen_by_its_content(tmp_path, weights):
    torch.save(weights, tmp_path / "new.safetensors")
    torch.save(weights, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "safe.pth")
    for name in ("new.safetensors", "old.bin", "safe.pth"):
        assert same(read_checkpoint(tmp_path / name), weights)


@pytest.mark.parametrize("place", ["meta", "state_dict", "message_hub"])
def test_objects_are_refused_in_every_way_of_loading(tmp_path, weights, place):
    file = tmp_path / "trap.pth"
    torch.save({"state_dict": weights, place: Trap(tmp_path / "sprung")}, file)
    for load in (read_checkpoint, CheckpointLoader.load_checkpoint, lambda path: torch.load(path, weights_only=True)):
        with pytest.raises(Exception) as caught:
            load(str(file))
        assert load not in (read_checkpoint, CheckpointLoader.load_checkpoint) or caught.type is UserError
    assert not (tmp_path / "sprung").exists()
    with trusted_checkpoints():
        read_checkpoint(file)
    assert (tmp_path / "sprung").is_dir()
    with pytest.raises(UserError, match="trust"):
        read_checkpoint(file)


def test_other_schemes_of_mmengine_are_refused():
    for address in ("s3://x/y.pth", "petrel://x/y.pth", "openmmlab://resnet50", "mmcls://resnet50"):
        with pytest.raises(UserError):
            CheckpointLoader.load_checkpoint(address)
    loaders = {loader.__module__ for loader in CheckpointLoader._schemes.values()}
    assert loaders == {"synthcap_mm.engine.loading"}


def test_what_mmengine_writes_comes_back_without_its_code(tmp_path, weights):
    history = HistoryBuffer([1.0, 2.5], [1, 2])
    meta = {"epoch": 3, "score": np.float64(1.5), "config": "raise SystemExit('executed')", "state": np.arange(3)}
    torch.save({"state_dict": weights, "meta": meta, "message_hub": {"log_scalars": {"x": history}}}, tmp_path / "c")
    read = read_checkpoint(tmp_path / "c")
    again = read["message_hub"]["log_scalars"]["x"]
    assert type(again) is HistoryBuffer and again.current() == 2.5 and again.mean() == history.mean()
    assert read["meta"]["score"] == 1.5 and read["meta"]["state"].tolist() == [0, 1, 2]
    assert "config" not in read["meta"]  # MMEngine executes it when it resumes
    torch.save(read, tmp_path / "again")
    assert read_checkpoint(tmp_path / "again")["message_hub"]["log_scalars"]["x"].current() == 2.5


def test_a_single_flipped_bit_is_found(tmp_path, weights):
    torch.save({"state_dict": weights, "meta": {"epoch": 1}}, tmp_path / "c.pth")
    whole, original = (tmp_path / "c.pth").read_bytes(), read_checkpoint(tmp_path / "c.pth")
    chance = random.Random(0)
    found = 0
    for _ in range(200):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (tmp_path / "c.pth").write_bytes(data)
        try:
            assert same(read_checkpoint(tmp_path / "c.pth")["state_dict"], original["state_dict"])
        except (UserError, ValueError):
            found += 1
    assert found > 50  # the others hit padding and what the format ignores


def test_bombs_and_other_files_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(50_000_000))
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {}, "meta": 1}, tmp_path / "meta.pth")
    for name in ("bomb", "text", "empty", "list", "meta"):
        with pytest.raises(UserError, match=rf"{name}\.pth"):
            read_checkpoint(tmp_path / f"{name}.pth")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "nowhere.pth")


def test_weights_that_are_not_finite_are_refused(weights):
    assert same(state_dict_of({"state_dict": weights}, "c.pth"), weights)
    with pytest.raises(UserError, match=r"a\.weight"):
        state_dict_of({**weights, "a.weight": torch.tensor([1.0, float("nan")])}, "c.pth")
    with pytest.raises(UserError, match="state_dict"):
        state_dict_of({"state_dict": {"a": 1}}, "c.pth")


def test_a_url_is_downloaded_once_and_its_hash_compared(tmp_path, monkeypatch):
    asked = []

    def fetch(url, path, hash_prefix, progress):
        asked.append((url, hash_prefix))
        open(path, "wb").close()

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert local_file("https://x.org/y-8daa61f3.pth?download=1") == tmp_path / "checkpoints" / "y-8daa61f3.pth"
    assert asked == [("https://x.org/y-8daa61f3.pth?download=1", "8daa61f3")]
    assert local_file("here.pth").name == "here.pth"


def archive(path, content, numbers=b"\0" * 4, code=False):
    """An archive as torch writes it, with any pickle."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/data.pkl", b"\x80\x02" + content)
        made.writestr("a/byteorder", "little")
        made.writestr("a/version", "3\n")
        made.writestr("a/data/0", numbers)
        if code:
            made.writestr("a/code/x.py", "")


MODULE = b"c__torch__\nM\n)\x81"
SHARED = (
    MODULE
    + b"}bq\0"
    + b"".join(
        MODULE + b"}(X\1\0\0\0ah" + bytes([n]) + b"X\1\0\0\0bh" + bytes([n]) + b"ubq" + bytes([n + 1])
        for n in range(40)
    )
)
NUMPY = b"cnumpy._core.multiarray\n"
PICKLES = {
    "a deep key": b"}" + b"N" + b"\x85" * 100_000 + b"Ns.",
    "a deep list": b"}X\1\0\0\0a" + b"]" * 1000 + b"a" * 999 + b"s.",
    "a key of a tuple": b"}K\1\x85Ns.",
    "a large number in the memo": b"Nr\xff\xff\xff\x3f.",
    "a long number": b"\x8b\xff\xff\xff\x7f",
    "values in themselves": MODULE + b"q\0}X\1\0\0\0wh\0sb.",
    "values shared too often": SHARED + b".",
    "no end": b"}",
    "nothing on the stack": b"s.",
    "bytes of another codec": b"c_codecs\nencode\nX\1\0\0\0aX\4\0\0\0idna\x86R.",
    "a tensor of any size": b"ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.",
    "bytes of any size": b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "an array of objects": b"}X\1\0\0\0ac" + b"numpy\ndtype\nX\1\0\0\0O\x85Rs.",
    "a number of any size": b"}X\1\0\0\0a" + NUMPY + b"scalar\ncnumpy\ndtype\nX\x0b\0\0\0V2000000000\x85R\x85Rs.",
    "an array larger than its bytes": b"}X\1\0\0\0a" + NUMPY + b"_reconstruct\n)R(K\1J\xff\xff\xff\x7f\x85"
    b"cnumpy\ndtype\nX\2\0\0\0f8\x85R\x89c_codecs\nencode\nX\1\0\0\0aX\6\0\0\0latin1\x86Rtbs.",
}  # fmt: skip


@pytest.mark.parametrize("code", [False, True])
@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_ask_too_much_are_refused(tmp_path, name, code):
    archive(tmp_path / "c.pth", PICKLES[name], code=code)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(1).expand(1_000_000),
        lambda: torch.ones(3, dtype=torch.complex64),
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
        lambda: torch.ones(3).to_sparse(),
        lambda: torch.ones(3, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    ],
)
def test_tensors_are_plain_numbers_in_memory(tmp_path, make):
    torch.save({"state_dict": {"w": make()}}, tmp_path / "c.pth")
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "c.pth")
    with pytest.raises(UserError):
        state_dict_of({"w": make()}, "c.pth")


def test_the_kinds_of_tensors_that_models_have_come_back(tmp_path):
    kinds = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
    weights = {str(kind): torch.ones(2, 3).to(kind).T for kind in (*kinds, torch.bool)}
    weights["of FSDP"] = torch.ones(2)
    weights["of FSDP"]._has_been_cloned = True
    weights["parameter"] = torch.nn.Parameter(torch.ones(2))
    torch.save(weights, tmp_path / "c.pth")
    assert same(state_dict_of(read_checkpoint(tmp_path / "c.pth"), "c.pth"), weights)
