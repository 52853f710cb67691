"""A file appears whole or not at all."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from synthcap_mm.store.shards import (
    file_sha256,
    portable,
    shard_name,
    shard_problem,
    write_atomically,
    write_json,
    write_shard,
)

TABLE = pa.table({"x": list(range(1000))})


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), write_atomically(tmp_path / "deep" / "file") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_exception_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ValueError), write_atomically(path) as file:
        file.write(b"new, but")
        raise ValueError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_not_there_before_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with write_atomically(path) as file:
        file.write(b"first half")
        file.flush()
        assert not path.exists()
        file.write(b", second half")
    assert path.read_bytes() == b"first half, second half"


def test_files_can_be_read_by_others_as_the_umask_says(tmp_path):
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "file.json", {"ä": 1})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o640
    assert json.loads((tmp_path / "file.json").read_text(encoding="utf-8")) == {"ä": 1}


def test_sigkill_while_writing_leaves_nothing_under_the_name(tmp_path):
    script = (
        "import sys, time; from synthcap_mm.store import write_atomically\n"
        "with write_atomically(sys.argv[1]) as file:\n"
        "    file.write(b'x' * 100_000); file.flush(); print('writing', flush=True); time.sleep(60)"
    )
    path = tmp_path / "file"
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    time.sleep(0.01)
    assert not path.exists()


def test_a_shard_without_its_record_is_an_unfinished_one(tmp_path, monkeypatch):
    from synthcap_mm.store import shards

    def fail(path, value):
        raise OSError("disk full")

    monkeypatch.setattr(shards, "write_json", fail)
    with pytest.raises(OSError):
        write_shard(tmp_path, "captions", 0, TABLE)
    assert not (tmp_path / "captions" / "00000.json").exists()


def test_a_record_tells_rows_bytes_and_checksum(tmp_path):
    record = write_shard(tmp_path, "pairs/default", 3, TABLE, flagged=2)
    path = tmp_path / "pairs" / "default" / "00003.arrow"
    assert record == {
        "file": "pairs/default/00003.arrow",
        "rows": 1000,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "flagged": 2,
    }
    assert json.loads(path.with_suffix(".json").read_text()) == record
    assert shard_name("pairs/default", 3) == record["file"]


def test_a_shard_of_many_rows_is_one_batch(tmp_path):
    table = pa.table({"x": list(range(200_000))})
    assert table.num_rows > 2**16
    record = write_shard(tmp_path, "t", 0, pa.concat_tables([table, table]))
    with pa.memory_map(str(tmp_path / record["file"])) as file:
        assert pa.ipc.open_file(file).num_record_batches == 1


@pytest.mark.parametrize("damage, told", [("delete", "missing"), ("truncate", "bytes instead of"), ("flip", None)])
def test_damage_is_told(tmp_path, damage, told):
    record = write_shard(tmp_path, "t", 0, TABLE)
    path = tmp_path / record["file"]
    assert shard_problem(tmp_path, record, full=True) is None
    if damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    if told:
        assert told in shard_problem(tmp_path, record, full=False)
    else:
        assert shard_problem(tmp_path, record, full=False) is None  # the size alone cannot tell
        assert "checksum" in shard_problem(tmp_path, record, full=True)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    a = write_shard(tmp_path / "a", "t", 0, TABLE)
    b = write_shard(tmp_path / "b", "t", 0, pa.concat_tables([TABLE.slice(0, 10), TABLE.slice(10)]))
    assert a == b


def test_settings_know_files_and_folders_by_their_content(tmp_path):
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(bytes(300_000))
    settings = {"type": "T", "path": str(folder), "list": [str(folder / "deep" / "weights"), 3, None, "words"]}
    before = portable(settings)
    assert str(tmp_path) not in str(before) and before["path"]["folder"] == "model"
    (folder / ".notes").write_text("hidden")
    assert portable(settings) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model").symlink_to(folder)
    assert portable({**settings, "path": str(tmp_path / "other" / "model")}) == before
    with open(folder / "deep" / "weights", "r+b") as file:  # in its middle, of the same size
        file.seek(150_000)
        file.write(b"x")
    after = portable(settings)
    assert (
        after["path"] != before["path"]
        and after["list"][0] != before["list"][0]
        and after["list"][1:] == [3, None, "words"]
    )
