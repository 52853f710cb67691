"""Scripts of benchmarks/ that measure: they run, in small, and say what they promise to say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from synthcap_mm.apis.experiments import Experiments, Ledger, read_table
from synthcap_mm.miniscenes.sources import MiniScenesPhotos, scene_named

ROOT = Path(__file__).resolve().parents[2]


def run(*command):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script(name, *options):
    return run(sys.executable, f"benchmarks/{name}.py", *options)


def test_factory():
    said = script("factory", "--images", 4, "--batch", 2, "--steps", 1, "--width", 4, "--repeats", 1, "--keep-images")
    figures = dict(re.findall(r"^(\S.*?)  +([\d.]+) ", said, re.M))
    assert float(figures["generator alone"]) > float(figures["bare loop, in sequence"]) > 0
    assert float(figures["factory, keeping pictures"]) > 0 and float(figures["factory / loop"]) > 0
    assert "(wanted: at least 0.95)" in said and "times faster (wanted: at least 20)" in said


def test_inspection(tmp_path):
    said = script("inspection", "--rows", 3000, "--dim", 16, "--work-dir", tmp_path)
    assert re.fullmatch(r"3,000 pairs of 16 dimensions: [\d.]+ s, peak [\d.]+ GB, page [\d.]+ MB\n", said)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killing(tmp_path):
    said = run("bash", "benchmarks/kill_synthesize.sh", "--runs", 1, "--ranks", 1, "--captions", 64,
               "--folder", tmp_path)  # fmt: skip
    assert "1 of 1 stores byte-identical" in said and "1 of 1 without a finished shard made again" in said
    assert said.endswith("nothing wrong\n")


@pytest.mark.slow
def test_diagnosis_of_refinement(tmp_path):
    command = [
        sys.executable,
        ROOT / "benchmarks/miniscenes/diagnose_refine.py",
        "--captions",
        "300",
        "--scenes",
        "100",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
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
    command = [sys.executable, ROOT / "benchmarks/miniscenes/diagnose_features.py", "--captions", "300",
               "--scenes", "100", "--runs"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([*command, "elsewhere"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "elsewhere has no NAME-HASH/seedN/test/images.json" in done.stderr
    done = subprocess.run([*command, "runs"], cwd=tmp_path, env=env, capture_output=True, text=True)
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
    assert drawn[2] == 0 and drawn[0] == drawn[1] == 285 and moved[0] == agreed[0] == 257
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
    said = script("miniscenes/places_named", tmp_path / "t.json", "--seeds", 1, "--work-dir", tmp_path)
    right = 100 * own[:30].count("beach") / 40
    assert right > 0 and said.splitlines()[2:5] == [
        "| a | 0.0 | 0.0 |",
        f"| b | 75.0 | {right:.1f} |",
        "| c | not finished | |",
    ]
    people = re.search(r"\| \*people\* \| ([\d.]+) \| ([\d.]+) \|", said)
    assert 0 < float(people[1]) < 100 and people[1] == people[2]  # what people say is true


def test_captioning():
    said = script("captioning", "--photos", 8, "--repeats", 1, "--memory-photos", 64)
    rates = dict(re.findall(r"^  (one at a time, no cache|batch \d+) +([\d.]+) ", said, re.M))
    assert len(rates) == 4 and all(float(rate) > 0 for rate in rates.values())
    assert "8 of 8 captions are the same" in said  # as transformers'
    assert set(re.findall(r"^  (\w+) +[\d.]+ +[\d.]+%$", said, re.M)) == {"decode", "encode", "tags", "text"}
    assert re.search(r"memory over 64 images, MB: (\d+ ){9}\d+", said)


@pytest.mark.slow
def test_training_step(tmp_path):
    said = script("training_step", "--tiny", "--batches", 2, 8, "--rows", 300, "--steps", 2, "--warm-up", 1,
                  "--json", tmp_path / "steps.json")  # fmt: skip
    report = json.loads((tmp_path / "steps.json").read_text())
    assert report["memory_rows"] == 300 and report["tiny"] and report["dtype"] == "bfloat16"
    assert [run["batch"] for run in report["runs"]] == [2, 8]
    for run in report["runs"]:
        assert run["captions_per_second"] == pytest.approx(run["batch"] / run["seconds"]) and run["peak_bytes"] > 1e8
        assert not run["compile"] and re.search(
            rf"^ +{run['batch']}    False  +[\d.]+  +[\d.]+  +[\d.]+  [\d.]+$", said, re.M
        )
    assert "TINY" in said
