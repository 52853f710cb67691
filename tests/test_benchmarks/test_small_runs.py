"""Each script of benchmarks/ runs, in small, and says what it promises to say."""

import json
import re
import shutil
import sys

import pytest
from command_line import ROOT, run_process

pytestmark = pytest.mark.slow


def script(name, *options):
    return run_process(ROOT, sys.executable, f"benchmarks/{name}.py", *options)


def test_synthesis():
    said = script("synthesis", "--images", 4, "--batch", 2, "--steps", 1, "--width", 4, "--repeats", 1, "--keep-images")
    figures = dict(re.findall(r"^(\S.*?)  +([\d.]+) ", said, re.M))
    assert float(figures["generator alone"]) > float(figures["bare loop, in sequence"]) > 0
    assert float(figures["images stage, keeping pictures"]) > 0 and float(figures["stage / loop"]) > 0


def test_stores_open():
    said = script("store_opening", "--rows", 20_000, "--dim", 8)
    found = re.search(r"^ +(\d+) rows: open ([\d.]+) s, .* (\d+) files open then; .*$", said, re.M)
    assert int(found[1]) >= 20_000 and float(found[2]) < 2 and int(found[3]) < 100


def test_curation(tmp_path):
    said = script("curation", "--rows", 1000, 2000, "--dim", 16, "--work-dir", tmp_path)
    assert re.search(r"1,000 +exact +[\d.]+ +[\d.]+ +[\d.]+ +0\.900", said)
    assert not list(tmp_path.iterdir())


def test_inspection(tmp_path):
    said = script("inspection", "--rows", 3000, "--dim", 16, "--work-dir", tmp_path)
    assert re.search(r"3,000 pairs of 16 dimensions: [\d.]+ s, peak [\d.]+ GB, page [\d.]+ MB\n", said)
    assert not list(tmp_path.iterdir())


def test_killing(tmp_path):
    options = ("--runs", 1, "--ranks", 1, "--captions", 64, "--folder", tmp_path)
    said = run_process(ROOT, "bash", "benchmarks/kill_synthesize.sh", *options)
    assert "1 of 1 stores byte-identical" in said and "1 of 1 without a finished shard made again" in said


def test_captioning():
    said = script("captioning", "--photos", 4, "--repeats", 1, "--memory-photos", 20)
    rates = dict(re.findall(r"^  (one at a time, no cache|batch \d+) +([\d.]+) ", said, re.M))
    assert len(rates) == 4 and all(float(rate) > 0 for rate in rates.values())
    assert "4 of 4 captions are the same" in said  # as transformers'
    assert set(re.findall(r"^  (\w+) +[\d.]+ +[\d.]+%$", said, re.M)) == {"decode", "encode", "tags", "text"}
    assert re.search(r"memory over 20 images, MB: (\d+ ){9}\d+", said)


def test_decoding():
    said = script("decoding", "--batch", 2, "--beams", 2, "--tokens", 4, "--repeats", 1)
    assert re.search(r"ratio [\d.]+", said) and "2 of 2 captions are the same" in said


def test_memory_projection():
    sizes = {"rows": 2000, "dim": 16, "batch": 4, "rounds": 1, "big-rows": 200_000, "big-batch": 256}
    options = [word for name, size in sizes.items() for word in (f"--{name}", size)]
    command = f"{sys.executable} benchmarks/memory_projection.py {' '.join(map(str, options))} || true"
    said = run_process(ROOT, "bash", "-c", command)  # so small it is not faster: the ratio's promise is broken
    assert float(re.search(r"greatest difference +([\d.e+-]+)", said)[1]) <= 1e-5
    assert len(re.findall(r"grew by +-?\d+ MiB", said)) == 5


def test_training_step(tmp_path):
    said = script("training_step", "--tiny", "--batches", 2, 8, "--rows", 300, "--steps", 2, "--warm-up", 1,
                  "--json", tmp_path / "steps.json")  # fmt: skip
    report = json.loads((tmp_path / "steps.json").read_text())
    assert report["memory_rows"] == 300 and report["tiny"] and report["dtype"] == "bfloat16"
    assert [run["batch"] for run in report["runs"]] == [2, 8]
    for run in report["runs"]:
        assert run["captions_per_second"] == pytest.approx(run["batch"] / run["seconds"]) and run["peak_bytes"] > 1e8
    assert "TINY" in said


def test_training_data():
    said = script("training_data", "--sizes", 2000, "--batch", 2, "--steps", 2)
    assert re.search(r"reading is [\d.]+ % of the step", said)


def test_metrics(tmp_path):
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
    rows = re.findall(r"^(BLEU-\d|ROUGE_L|CIDEr) +([\d.]+) +([\d.]+) +(-?[\d.]+)$", said, re.M)
    assert len(rows) == 6
    for name, ours, java, difference in rows:
        assert float(ours) > 20 and abs(float(difference)) <= 0.01, (name, ours, java)


def test_tokenizer_parity(tmp_path):
    if shutil.which("java") is None:
        pytest.skip("JAVA ABSENT: no comparison with the original tokenizer")
    (tmp_path / "c.txt").write_text("b.\nA dog runs.\n")
    said = script("tokenizer_parity", tmp_path / "c.txt", "--hard")
    assert "1 of 2 captions of c.txt differ: 5000.00 in 10,000" in said
    assert "2 of 274 hand-written captions differ" in said


def test_pictures():
    said = script("pictures", "--photos", 2, "--repeats", 1, "--sides", 1700, 1000)
    assert len(re.findall(r"^  (?:progressive )?(?:JPEG|PNG, RGB) +ratio [\d.]+ of the speed", said, re.M)) == 3
    said = script("pictures", "--worst", "--pixels", 1_000_000)
    assert len(re.findall(r" MB  .* s  \(file \d+ MB\)$", said, re.M)) == 12
