"""caption, export and eval-captions as one types them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from caption_samples import COCO, write
from command_line import ROOT, run_command


@pytest.fixture(scope="module")
def photos(trained):
    from synthcap_mm.miniscenes.sources import MiniScenesPhotos

    (folder := trained[0] / "photos").mkdir()
    for i in range(5):
        MiniScenesPhotos("test", 5).load(i).save(folder / f"a photo {i} é.png")
    (folder / "broken.jpg").write_bytes(b"")
    return folder


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_export_captions_as_the_checkpoint_does_without_its_store(trained, best, photos):
    folder, _ = trained
    # The config with what it was trained with, as train left it beside the checkpoint.
    config = best.parent / "synthcap_mini.py"
    said = run_command(folder, "caption", config, best, "photos", "--out", "out/a.jsonl", "--num-beams", 2)
    assert "5 written" in said and "1 images could not be read" in said
    found = rows(folder / "out" / "a.jsonl")
    assert sum("caption" in row for row in found) == 5
    assert [r["image"] for r in found if "error" in r] == ["photos/broken.jpg"]
    run_command(folder, "export", config, best, "export")
    (folder / "data").rename(folder / "data gone")
    try:
        run_command(folder, "caption", "export", "photos/a*.png", "--out", "out/b.jsonl", "--num-beams", 2)
    finally:
        (folder / "data gone").rename(folder / "data")
    assert rows(folder / "out" / "b.jsonl") == [row for row in found if "caption" in row]


@pytest.mark.slow
def test_a_slow_server_holds_no_signal(trained, best, photos, tmp_path):
    folder, _ = trained
    config = best.parent / "synthcap_mini.py"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and says nothing
        slow = [f"http://127.0.0.1:{silent.getsockname()[1]}/{i}.jpg" for i in range(9)]
        arguments = ["photos", *slow, "--out", tmp_path / "a.jsonl", "--batch-size", 1, "--device", "cpu"]
        command = [sys.executable, "-m", "synthcap_mm.cli", "caption", config, best, *arguments]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(list(map(str, command)), cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while not (tmp_path / "a.jsonl").is_file() or not rows(tmp_path / "a.jsonl"):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)  # all addresses take minutes
    assert process.returncode == 130 and "Traceback" not in said
    assert "caption" in said.split("type:")[1] and len(rows(tmp_path / "a.jsonl")) >= 1


def test_wrong_arguments_are_named(trained, best, photos, tmp_path):
    folder, _ = trained
    for args, word in (
        (["synthcap_mini.py", "photos"], "synthcap_mini.py"),
        (["synthcap_mini.py", "none.pth", "photos"], "none.pth"),
        (["photos", "photos"], "photos"),
        (["synthcap_mini.py", best, tmp_path], str(tmp_path)),
    ):
        assert word in run_command(folder, "caption", *args, "--out", "x.jsonl", status=1)
    assert "photos" in run_command(folder, "export", "synthcap_mini.py", best, "photos", status=1)


def test_captions_are_scored_and_compared(tmp_path):
    def run(*arguments, status=0):
        return run_command(tmp_path, "eval-captions", *arguments, status=status)

    write(tmp_path / "ref.json", COCO)
    write(tmp_path / "a.json", [{"image_id": 7, "caption": "a dog runs"}, {"image_id": 8, "caption": "two cats"}])
    write(tmp_path / "b.json", [{"image_id": 7, "caption": "a dog"}, {"image_id": 8, "caption": ""}])
    said = run("a.json", "ref.json", "--out", "scores.json")
    assert "ROUGE_L    100.00" in said and (tmp_path / "scores.json").is_file()
    said = run("a.json", "b.json", "ref.json", "--metrics", "ROUGE_L", "--samples", "100")
    assert "95 % interval" in said
    assert "characters" in run("a.json", "ref.json", "--tokenize", "char")
    assert "PRED REF" in run("a.json", status=2)
    assert "--synonyms" in run("a.json", "ref.json", "--metrics", "CHAIR", status=2)
    assert "none.json" in run("none.json", "ref.json", status=1)
    write(tmp_path / "b.json", [{"image_id": 7, "caption": "a dog"}])
    assert "b.json" in run("b.json", "ref.json", status=1)
