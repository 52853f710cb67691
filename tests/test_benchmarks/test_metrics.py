"""The benchmark of the metrics, in small: it runs, and ours are the Java path's figures."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name, *options):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"benchmarks/{name}.py", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_time_on_a_few_captions(tmp_path):
    captions = [f"A {c} {t} on the {p}, and no. {n}." for n, (c, t, p) in enumerate(
        [("red", "dog", "beach"), ("old", "cat", "street"), ("big", "bus", "hill"), ("sad", "cow", "road"), ("wet", "car", "ice")]
    )]  # fmt: skip
    annotations = [{"id": 10 * i + n, "image_id": i, "caption": c} for i in range(6) for n, c in enumerate(captions)]
    (tmp_path / "c.json").write_text(json.dumps({"images": [{"id": i} for i in range(6)], "annotations": annotations}))
    said = script("metrics", tmp_path / "c.json", "--repeats", 1)
    assert "6 images, 30 references" in said and float(re.search(r"ratio ([\d.]+)", said)[1]) > 0


@pytest.mark.real
def test_bleu_rouge_and_cider_are_the_java_paths(real_data):
    if shutil.which("java") is None:
        pytest.skip("JAVA ABSENT: no comparison with the official path")
    file = real_data / "captions" / "coco_captions_val2017.json"
    said = script("metrics", file, "--repeats", 1, "--java")
    assert "5000 images, 25000 references" in said
    rows = re.findall(r"^(BLEU-\d|ROUGE_L|CIDEr) +([\d.]+) +([\d.]+) +(-?[\d.]+)$", said, re.M)
    assert len(rows) == 6
    for name, ours, java, difference in rows:
        assert float(ours) > 20 and abs(float(difference)) <= 0.01, (name, ours, java)


def test_parity_script(tmp_path):
    if shutil.which("java") is None:
        pytest.skip("JAVA ABSENT: no comparison with the original tokenizer")
    (tmp_path / "c.txt").write_text("b.\nA dog runs.\n")
    said = script("tokenizer_parity", tmp_path / "c.txt", "--hard")
    assert "1 of 2 captions of c.txt differ: 5000.00 in 10,000" in said
    assert "2 of 274 hand-written captions differ" in said
