import csv
import json
import sys

import pytest

from synthcap_mm.apis.repeating import RepeatError, run_seeds, summarize, summary_table, write_summary

# Stands in for tools/train.py: it writes down how it was called, and scores by its seed.
TRAIN = """
import json, sys
from pathlib import Path
arguments = sys.argv[1:]
folder = Path(arguments[arguments.index("--work-dir") + 1])
options = dict(o.split("=") for o in arguments[arguments.index("--cfg-options") + 1:])
seed = int(options["randomness.seed"])
with open(folder.parent / "calls.txt", "a") as file:
    file.write(" ".join(arguments) + "\\n")
if options.get("fail") == str(seed):
    sys.exit(7)
metrics = {"CIDEr": 10.0 + 2 * seed, "BLEU-4": 5.0}
report = {"metrics": metrics, "validation": {"epoch": 1, "metrics": {"CIDEr": 1.0 * seed}}, "skipped": {"METEOR": "needs Java"}}
(folder / "test_metrics.json").write_text(json.dumps(report))
"""


@pytest.fixture()
def train(tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    return [sys.executable, str(tmp_path / "train.py"), "config.py"]


def calls(folder):
    return (folder / "calls.txt").read_text().splitlines()


def test_each_seed_runs_once_in_its_own_folder(train, tmp_path):
    work = tmp_path / "work"
    reports = run_seeds(train, "text", [0, 1, 2], work, ["--amp"], ["a.b=1"])
    assert calls(work) == [
        f"config.py --work-dir {work}/seed_{n} --resume --amp --cfg-options a.b=1 randomness.seed={n} test_best=True"
        for n in range(3)
    ]
    assert run_seeds(train, "text", [0, 1, 2, 3], work, ["--amp"], ["a.b=1"]).keys() == {0, 1, 2, 3}
    assert len(calls(work)) == 4  # finished ones are reused
    summary = summarize(reports)
    assert summary["test"]["CIDEr"] == {"mean": 12.0, "sd": 2.0, "values": [10.0, 12.0, 14.0]}  # n - 1
    assert summary["validation"]["CIDEr"]["mean"] == 1.0
    table = summary_table(summary)
    assert "12.00 ± 2.00" in table and "1.00 ± 1.00" in table and "METEOR  skipped: needs Java" in table


def test_files(train, tmp_path):
    summary = summarize(run_seeds(train, "text", [4, 5], tmp_path / "work"))
    json_file, csv_file = write_summary(summary, tmp_path / "work")
    assert json.loads(json_file.read_text()) == summary
    rows = list(csv.DictReader(csv_file.open()))
    assert rows[0] == {
        "split": "test", "metric": "CIDEr", "mean": "19.0", "sd": str(2**0.5), "seed_4": "18.0", "seed_5": "20.0",
    }  # fmt: skip
    assert [(row["split"], row["metric"]) for row in rows[1:]] == [("test", "BLEU-4"), ("validation", "CIDEr")]


def test_one_seed_has_no_spread(train, tmp_path):
    summary = summarize(run_seeds(train, "text", [1], tmp_path / "work"))
    assert summary["test"]["CIDEr"]["sd"] is None and "±" not in summary_table(summary).splitlines()[1]


def test_a_failed_seed_is_told_and_gone_on_with(train, tmp_path):
    work = tmp_path / "work"
    with pytest.raises(RepeatError, match=r"seed 1 ended with status 7; .*seed_1\. The same command goes on"):
        run_seeds(train, "text", [0, 1, 2], work, (), ["fail=1"])
    (tmp_path / "train.py").write_text(TRAIN.replace("sys.exit(7)", "pass"))
    assert len(run_seeds(train, "text", [0, 1, 2], work, (), ["fail=1"])) == 3
    assert [line.split("randomness.seed=")[1][0] for line in calls(work)] == ["0", "1", "1", "2"]


@pytest.mark.parametrize("change", ["config", "flags", "options"])
def test_runs_with_other_settings_do_not_count(train, tmp_path, change):
    run_seeds(train, "text", [0], tmp_path / "work")
    changed = {"config": ("other",), "flags": ("text", ["--amp"]), "options": ("text", [], ["a=1"])}[change]
    with pytest.raises(RepeatError, match="another config or other flags"):
        run_seeds(train, changed[0], [0], tmp_path / "work", *changed[1:])


def test_a_folder_of_something_else_is_left_alone(train, tmp_path):
    (tmp_path / "work" / "seed_0").mkdir(parents=True)
    (tmp_path / "work" / "seed_0" / "thesis.tex").touch()
    with pytest.raises(RepeatError, match=r"holds something else than a run of tools/repeat\.py"):
        run_seeds(train, "text", [0], tmp_path / "work")
