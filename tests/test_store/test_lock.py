"""One job at a time on a store."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from synthcap_mm.store import StoreError, StoreLock

HOLDER = """
import sys, time
from synthcap_mm.store import StoreLock
with StoreLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture()
def other_job(tmp_path):
    """Another process that holds the store ``tmp_path / 'store'``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_job_is_named_and_nothing_is_touched(tmp_path, other_job):
    before = (tmp_path / "store" / ".lock").read_bytes()
    with pytest.raises(StoreError, match="another job is at work") as caught, StoreLock(tmp_path / "store"):
        pass
    assert f"process {other_job.pid} of" in str(caught.value) and socket.gethostname() in str(caught.value)
    assert (tmp_path / "store" / ".lock").read_bytes() == before


def test_a_killed_jobs_lock_is_stale(tmp_path, other_job):
    other_job.send_signal(signal.SIGKILL)
    other_job.wait()
    assert (tmp_path / "store" / ".lock").is_file()  # what it left behind
    with StoreLock(tmp_path / "store"):
        assert json.loads((tmp_path / "store" / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "store" / ".lock").exists()


@pytest.mark.parametrize("silent, taken", [(10, False), (1000, True)])
def test_a_job_on_another_machine_counts_by_its_signs_of_life(tmp_path, silent, taken):
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7, "user": "ada", "since": "noon", "command": "x.py"}))
    os.utime(lock, (time.time() - silent,) * 2)
    if taken:
        with StoreLock(tmp_path):
            pass
        return
    with pytest.raises(StoreError, match=r"process 7 of ada on elsewhere, at work since noon \(x.py\).*sign of life"):
        StoreLock(tmp_path).__enter__()
    assert json.loads(lock.read_text())["pid"] == 7


def test_signs_of_life_are_given(tmp_path, monkeypatch):
    from synthcap_mm.store import lock

    monkeypatch.setattr(lock, "_BEAT", 0.05)
    with StoreLock(tmp_path):
        os.utime(tmp_path / ".lock", (1, 1))
        for _ in range(100):
            time.sleep(0.02)
            if (tmp_path / ".lock").stat().st_mtime > 1:
                break
        assert (tmp_path / ".lock").stat().st_mtime > 1


@pytest.mark.parametrize("content", ["", "half a rec", "[1]"])
def test_a_lock_file_that_says_nothing_is_no_hindrance(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with StoreLock(tmp_path):
        pass


AS_NOBODY = """
import os, sys
from synthcap_mm.store import StoreLock, StoreError
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
try:
    StoreLock(sys.argv[1]).__enter__()
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("place", ["folder", "folder/new"])
def test_a_folder_without_write_permission(tmp_path, place):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o555)
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(above.stat().st_mode | 0o055)
    result = subprocess.run([sys.executable, "-c", AS_NOBODY, str(tmp_path / place)], capture_output=True, text=True)
    assert "no permission to write in the store's folder" in result.stdout, result.stderr
    assert "--cfg-options synthesis.store=FOLDER" in result.stdout
