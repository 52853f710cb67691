"""The scripts of research/miniscenes: they run, in small, and their figures say what they should."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from research.ledger import Ledger
from research.runner import Experiments
from research.tables import read_table
from synthcap_mm.miniscenes.sources import MiniScenesPhotos, scene_named

ROOT = Path(__file__).resolve().parents[2]


def call(folder, script, *options):
    command = [sys.executable, "-m", f"research.miniscenes.{script}", *map(str, options)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_diagnosis_of_refinement(tmp_path):
    done = call(tmp_path, "diagnose_refine", "--captions", 300, "--scenes", 100)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    rows = {
        c[0]: [float(v) for v in c[1:]] for c in ([v.strip() for v in line.strip("|").split("|")] for line in lines[1:])
    }
    photos = rows["*the photos themselves*"]
    assert photos[1] == pytest.approx(1.0, abs=1e-3) and photos[2] < 1e-6 and photos[-1] == pytest.approx(1.0, abs=1e-3)
    assert rows["drawings as they are"][0] < rows["to 0.60"][0] < rows["to 0.85"][0]
    assert rows["to 0.60"][0] == pytest.approx(0.6, abs=0.02)
    assert rows["mean of 300 unpaired photos"][2] < rows["drawings as they are"][2] / 2
    assert len({row[6] for row in rows.values()}) == 1  # the inference prefix is the same whatever is done in training


@pytest.mark.slow
def test_diagnosis_of_features(tmp_path):
    photos = MiniScenesPhotos("test", 300)
    people = {key: photos.references(i) for i, key in enumerate(photos.keys)}
    # one run that writes what a person would, one that always writes the same
    for run, write in (("synthcap-0a", lambda r: r[1]), ("no_tags-0b", lambda r: "a red dog")):
        images = {key: {"references": r, "hypothesis": write(r)} for key, r in people.items()}
        file = tmp_path / "runs" / run / "seed0" / "test" / "images.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"images": images}))
    command = ["diagnose_features", "--captions", 300, "--scenes", 100, "--runs"]
    done = call(tmp_path, *command, "elsewhere")
    assert done.returncode == 2 and "elsewhere has no NAME-HASH/seedN/test/images.json" in done.stderr
    done = call(tmp_path, *command, "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    tables = {}
    for part in done.stdout.split("\n\n"):
        lines = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")]
        if lines:
            tables[lines[0][0]] = {r[0]: [None if c == "–" else float(c.replace(",", "")) for c in r[1:]]
                                   for r in lines[1:]}  # fmt: skip
    prefix, sentences, pairs, prompts, retrieved = (
        tables[name] for name in ("prefix", "captions of", "pairs", "prompts of the test photos", "retrieved captions")
    )
    usual, captions = prefix["*nothing: what is usual*"], prefix["captions (training) and projected photos (DeCap)"]
    drawings = prefix["drawings (no optimisation, no memory)"]
    # a caption's own feature tells more of the caption than its drawing does, and that more than nothing
    assert all(a > b > c for a, b, c in zip(captions[1:3], drawings[1:3], usual[1:3]))
    assert usual[0] is None and drawings[0] > 60
    person, same = sentences["SynTIC"], sentences["SynTIC without tags"]
    assert person[:3] == [1, pytest.approx(person[1]), 100.0] and person[1] > 90 and person[5] == 100.0
    assert same[1] == pytest.approx(100 / 300, abs=0.05) and same[-1] < person[-1] and same[4] == 0
    drawn, moved = pairs["as drawn"], pairs["reassigned (SynC)"]
    agreed = pairs["reassigned by encoder and tags, weight 1.0"]
    assert drawn[2] == 0 and drawn[0] == drawn[1] and moved[0] == agreed[0] == pytest.approx(0.9 * drawn[0], abs=1)
    assert moved[2] > 50 and moved[8] > drawn[8] and moved[3] < agreed[3] > drawn[3] and drawn[6] > agreed[6] > moved[6]
    masked = prompts["ViECap- and IFCap-style in training: the caption's, masked"]
    assert masked[2] == 100.0 and masked[3] == pytest.approx(60, abs=6)
    detector = prompts["the detector's (SynTIC)"]
    assert detector[4] == pytest.approx(person[2], abs=8) and detector[5] == 0.0  # a person repeats no wrong name
    noise = [retrieved[f"training, noise {n}"][0] for n in ("0.04 (its config)", "0.01", "0")]
    assert noise == sorted(noise)


@pytest.mark.slow
def test_places_named(tmp_path):
    """Two runs of three whose captions are known; the third is not finished."""
    run_of = {"config": "synthcap_mini.py"}
    runs = {name: {"title": name, **run_of, "options": {"randomness.seed": n}} for n, name in enumerate("abc")}
    table = {
        "title": "t",
        "note": "",
        "reference": "a",
        "metrics": ["CIDEr"],
        "seeds": 1,
        "tests": ["test"],
        "runs": runs,
    }
    (tmp_path / "t.json").write_text(json.dumps(table))
    photos = MiniScenesPhotos("test", num=40)
    own = [scene_named(key).place for key in photos.keys]
    experiments = Experiments(read_table(str(tmp_path / "t.json")), tmp_path, Ledger(tmp_path / "none.csv"), 1)
    for name, captions in {"a": ["a dog"] * 40, "b": ["a dog on the beach"] * 30 + ["a dog"] * 10}.items():
        told = {k: {"references": photos.references(i), "hypothesis": captions[i]} for i, k in enumerate(photos.keys)}
        folder = experiments.folder(name, 0) / "test"
        folder.mkdir(parents=True)
        (folder / "images.json").write_text(json.dumps({"images": told}))
    said = call(tmp_path, "places_named", tmp_path / "t.json", "--seeds", 1, "--work-dir", tmp_path).stdout
    right = 100 * own[:30].count("beach") / 40
    assert right > 0 and said.splitlines()[2:5] == [
        "| a | 0.0 | 0.0 |",
        f"| b | 75.0 | {right:.1f} |",
        "| c | not finished | |",
    ]
    people = re.search(r"\| \*people\* \| ([\d.]+) \| ([\d.]+) \|", said)
    assert 0 < float(people[1]) < 100 and people[1] == people[2]  # what people say is true
