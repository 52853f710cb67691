"""Tables of experiments: what they say, what is remembered, what is left to do, and the page."""

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from synthcap_mm.apis.experiments import (
    ExperimentError,
    Experiments,
    Ledger,
    Run,
    config_hash,
    config_of,
    read_rows,
    read_table,
    table_names,
    training_hash,
    training_seconds,
)
from synthcap_mm.apis.results_page import differences, draw_plot, mean_sd, section, write_section
from synthcap_mm.files import write_json

ROOT = Path(__file__).resolve().parents[2]
TABLE = {
    "title": "Trial", "note": "A note.", "reference": "decap", "metrics": ["CIDEr", "ObjectErrors-missed"], "seeds": 2,
    "runs": {
        "decap": {"title": "DeCap", "config": "decap/decap_mini.py"},
        "synthcap": {"title": "SynTIC", "config": "synthcap_mini.py"},
        "tau": {"title": "DeCap, other tau", "config": "decap/decap_mini.py", "of": "decap",
                "options": {"model.necks.1.temperature": 0.02}},
    },
}  # fmt: skip


@pytest.fixture()
def table(tmp_path):
    def write(**changes):
        file = tmp_path / "trial.json"
        file.write_text(json.dumps({**TABLE, **changes}))
        return read_table(str(file))

    return write


def finished(experiments, name, seed, cider, seconds=60, heldout=50.0):
    """Put what a run leaves; its images have scores around its CIDEr."""
    experiments.ledger.put({"run": name, "hash": experiments.hashes[name], "seed": seed, "commit": "abc", "seconds": seconds,
                            "heldout_CIDEr": heldout, "CIDEr": cider, "ObjectErrors-missed": 10.0})  # fmt: skip
    rng = np.random.default_rng(seed)
    images = {
        f"{i}": {"references": ["a"], "hypothesis": "a", "scores": {"CIDEr": cider + float(rng.normal())}}
        for i in range(30)
    }
    folder = experiments.folder(name, seed) / "test"
    folder.mkdir(parents=True)
    write_json(folder / "images.json", {"metrics": {}, "images": images})


@pytest.mark.parametrize("name", table_names())
def test_tables_that_ship_name_configs_that_are_there_and_all_differ(name, monkeypatch):
    found = read_table(name)
    monkeypatch.chdir(ROOT)
    for variable in found.environment:
        monkeypatch.setenv(variable, "somewhere")
    hashes = {(config_hash(config_of(run)), run.of) for run in found.runs.values()}
    assert len(hashes) == len(found.runs) and found.seeds >= 3
    assert (found.x is not None) == any(run.x is not None for run in found.runs.values())
    for run in found.runs.values():
        cfg = config_of(run)
        assert set(found.tests) <= {Path(entry.store).name for entry in cfg.photo_stores}
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs
        assert isinstance(cfg.test_evaluator, dict) and "store" in cfg.test_dataloader.dataset


def test_what_decides_figures_decides_the_hash():
    def digest(options=None, seed=0, config="decap/decap_mini.py", of=None):
        return config_hash(config_of(Run("x", "X", config, options or {}), seed), of)

    assert digest() == digest(seed=3) == digest({"default_hooks.logger.interval": 7, "work_dir": "there"})
    assert digest() != digest({"optim_wrapper.optimizer.lr": 1.0})
    assert digest() != digest({"synthesis.generator.drop": 0.5})
    assert len({digest(), digest(of="a"), digest(of="b")}) == 3
    # Not of the place where the checkout lies, though the vocabulary's path is absolute.
    assert str(ROOT) in json.dumps(config_of(Run("v", "V", "viecap/viecap_mini.py")).to_dict(), default=str)
    elsewhere = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2] + '/synthcap_mm'); " \
                "shutil.copytree(sys.argv[1] + '/../configs', sys.argv[2] + '/configs')"  # fmt: skip
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", elsewhere, ROOT / "synthcap_mm", folder], check=True)
        code = ("from synthcap_mm.apis.experiments import *; r = Run('x', 'X', 'viecap/viecap_mini.py'); "
                "print(config_hash(config_of(r)))")  # fmt: skip
        env = {**os.environ, "PYTHONPATH": folder}
        there = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True
        )
    assert there.stdout.strip() == digest(config="viecap/viecap_mini.py")


def test_the_hash_is_the_same_wherever_data_lie(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = read_table("real").runs

    def digest(data, work):
        monkeypatch.setenv("SYNTHCAP_REAL_DATA", data)
        monkeypatch.setenv("SYNTHCAP_REAL_WORK", work)
        return config_hash(config_of(runs["synthcap"]))

    monkeypatch.setenv("SYNTHCAP_COMMAND", "bash tools/dist_train.sh")  # set by tools/launch.sh; no folder of data
    rows = Ledger(ROOT / "docs" / "results" / "real.csv").rows
    monkeypatch.setenv("SYNTHCAP_ALL", "/y")  # a folder around it that no config reads
    for data, work in (("/x/in", "/y/out"), ("/x", "/x/out"), ("a", "s"), ("/x/out/in", "/x/out")):
        assert digest(data, work) == next(row["hash"] for row in rows if row["run"] == "synthcap")


def test_folders_of_two_variables_are_two_folders(monkeypatch):
    """They are never the same data, though each is the first that its config reads."""
    monkeypatch.setenv("SYNTHCAP_ONE", "/data/one")
    monkeypatch.setenv("SYNTHCAP_OTHER", "/data/other")
    one, other = (
        config_of(Run("x", "X", "decap/decap_mini.py", {"train_dataloader.dataset.store": f"/data/{name}/pairs"}))
        for name in ("one", "other")
    )
    assert config_hash(one) != config_hash(other) and training_hash(one) != training_hash(other)


@pytest.mark.parametrize("setting", [{"load_from": "pretrained.pth"}, {"custom_hooks.0.type": "EMAHook"}])
def test_weights_to_begin_with_and_other_hooks_decide_a_training(setting):
    plain, other = (config_of(Run("x", "X", "decap/decap_mini.py", options)) for options in ({}, setting))
    assert config_hash(plain) != config_hash(other) and training_hash(plain) != training_hash(other)


def test_two_processes_keep_each_others_rows(tmp_path):
    one, other = Ledger(tmp_path / "t.csv"), Ledger(tmp_path / "t.csv")
    for seed in (0, 1):
        for ledger, name in ((one, "decap"), (other, "synthcap")):
            ledger.put({"run": name, "hash": "h", "seed": seed, "commit": "c", "seconds": 3, "heldout_CIDEr": 1.0})
    rows = Ledger(tmp_path / "t.csv").rows
    assert [(r["run"], r["seed"]) for r in rows] == [(n, s) for s in "01" for n in ("decap", "synthcap")]


def test_what_is_only_tested_on_is_no_part_of_a_training():
    def digest(config="synthcap_mini.py", **options):
        cfg = config_of(Run("x", "X", config, {k.replace("__", "."): v for k, v in options.items()}))
        return training_hash(cfg), config_hash(cfg)

    plain, other = digest(), digest(photo_stores=[{"store": "data/miniscenes/second_test", "photos": {"num": 3}}])
    assert plain[0] == other[0] and plain[1] != other[1]
    assert plain[0] == digest(test_evaluator__metrics=["CIDEr"])[0]
    assert plain[0] != digest(val_evaluator__metrics=["CIDEr"])[0]
    assert plain[0] != digest(model__necks__0__temperature=0.02)[0]
    # Photos that a neck reads while it is trained do count, the others do not.
    moments = "synthcap/synthcap_mini_moments.py"
    assert digest(moments)[0] == digest(moments, photo_stores__0__photos__num=12)[0]
    assert digest(moments)[0] != digest(moments, photo_stores__1__photos__num=12)[0]


def test_tables_share_a_training_and_two_runs_of_a_table_train_once(table, tmp_path, monkeypatch):
    photos = [{"store": "data/miniscenes/test", "photos": {"type": "MiniScenesPhotos", "split": "test", "num": 5}}]
    runs = {
        "synthcap": TABLE["runs"]["synthcap"],
        "few": {**TABLE["runs"]["synthcap"], "options": {"photo_stores": photos}},
        "beams": {**TABLE["runs"]["synthcap"], "options": {"model.head.generation.num_beams": 2}, "of": "few"},
    }
    read = table(runs=runs, reference="synthcap")
    experiments = Experiments(read, tmp_path / "work", Ledger(tmp_path / "t.csv"), jobs=2)
    trained = []

    def tool(name, run, cfg, file, log, *arguments):
        trained.append(run.name)
        time.sleep(0.2)
        folder = Path(arguments[arguments.index("--work-dir") + 1])
        part = folder / time.strftime("%Y%m%d_%H%M%S", time.localtime(time.time() - 40)) / "vis_data"
        part.mkdir(parents=True)
        (part / "scalars.json").write_text('{"CIDEr": 12.0}\n{"CIDEr": 34.5}\n')
        (folder / "best_CIDEr_epoch_2.pth").write_bytes(b"weights")
        (folder / "epoch_2.pth").write_bytes(b"weights")

    monkeypatch.setattr(experiments, "_tool", tool)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(experiments._train, ("synthcap", "few"), (0, 0))
    assert first == second and len(trained) == 1
    assert first["heldout_CIDEr"] == 34.5 and 39 <= first["seconds"] <= 60
    experiments._train("few", 1)
    assert len(trained) == 2
    # So do two processes, here with nothing in common but the folder.
    twins = [Experiments(read, tmp_path / "work", Ledger(tmp_path / f"{i}.csv"), seeds=3) for i in range(2)]
    for twin in twins:
        monkeypatch.setattr(twin, "_tool", tool)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(Experiments._train, twins, ("synthcap", "few"), (2, 2))
    assert one == two and len(trained) == 3
    del trained[2:]
    other = Experiments(table(runs={"decap": runs["few"]}), tmp_path / "work", Ledger(tmp_path / "other.csv"))
    monkeypatch.setattr(other, "_tool", tool)
    assert other._train("decap", 0) == first and len(trained) == 2
    assert other.checkpoint("decap", 0) == experiments.checkpoint("beams", 0) and other.checkpoint("decap", 0).is_file()
    assert not list((tmp_path / "work").rglob("epoch_*.pth"))
    with pytest.raises(FileNotFoundError):
        other.checkpoint("decap", 3)


def test_the_parts_of_a_resumed_training_all_take_time(tmp_path):
    for hour in ("10", "12"):
        file = tmp_path / f"20260102_{hour}0000" / "vis_data" / "scalars.json"
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        end = time.mktime(time.strptime(f"20260102 {hour}:02:05", "%Y%m%d %H:%M:%S"))
        os.utime(file, (end, end))
    file = tmp_path / "notes" / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert training_seconds(tmp_path) == 250


def test_the_ledger_has_whole_rows_and_replaces_none_but_the_same(tmp_path):
    ledger = Ledger(tmp_path / "r" / "t.csv")
    base = {"hash": "h", "commit": "c", "seconds": 3, "heldout_CIDEr": 1.0}
    threads = [
        threading.Thread(target=ledger.put, args=({**base, "run": "a", "seed": s, "CIDEr": s / 3},)) for s in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.put({**base, "run": "a", "seed": 2, "CIDEr": 9.0, "extra": "x"})
    ledger.put({**base, "run": "a", "seed": 2, "hash": "other", "CIDEr": 5.0})
    again = Ledger(ledger.path)
    assert sorted(again.rows, key=str) == sorted(
        ({k: r.get(k, "") for k in again.rows[0]} for r in ledger.rows), key=str
    )
    assert len(again.rows) == 9 and again.find("a", "h", 2)["CIDEr"] == "9.0000" and again.find("a", "x", 2) is None
    with ledger.path.open(newline="") as file:
        assert next(csv.reader(file))[:7] == ["run", "hash", "seed", "trained", "commit", "seconds", "heldout_CIDEr"]
    assert [p.name for p in ledger.path.parent.iterdir()] == ["t.csv"]


def test_what_is_finished_is_not_run_again(table, tmp_path, monkeypatch):
    experiments = Experiments(table(), tmp_path / "work", Ledger(tmp_path / "t.csv"))
    for name in ("decap", "tau"):
        for seed in (0, 1):
            finished(experiments, name, seed, 100.0)
    finished(experiments, "synthcap", 1, 90.0, seconds=7200)
    assert experiments.missing(list(TABLE["runs"]), True) == [("synthcap", 0)]
    assert experiments.remaining([("synthcap", 0), ("decap", 1)]) == "2 runs left, about 2.0 h"
    done = []
    told = []
    monkeypatch.setattr(experiments, "prepare", lambda names: done.append(names))
    monkeypatch.setattr(experiments, "_do", lambda *job: done.append(job))
    monkeypatch.setattr("synthcap_mm.apis.experiments.print_log", lambda text, **kwargs: told.append(text))
    experiments.run()
    assert done == [["synthcap"], ("synthcap", 0, True)] and "nothing is run" not in " ".join(told)
    finished(experiments, "synthcap", 0, 95.0)
    experiments.run()
    assert len(done) == 2
    # Whoever wants them run all the same, in a clone, is told how.
    assert told[-1].startswith("nothing is run: 6 finished runs are in ") and "--out" in told[-1]
    # Other settings are other runs.
    other = Experiments(table(), tmp_path / "work", experiments.ledger, options={"optim_wrapper.optimizer.lr": 1.0})
    assert len(other.missing(list(TABLE["runs"]), True)) == 6
    assert (
        Experiments(table(), tmp_path, Ledger(tmp_path / "none.csv"))
        .remaining([("decap", 0)])
        .endswith("unknown before one has finished")
    )


def test_a_failed_run_does_not_stop_the_others(table, tmp_path, monkeypatch):
    runs = {"tau": TABLE["runs"]["tau"], **TABLE["runs"]}
    experiments = Experiments(table(runs=runs), tmp_path / "work", Ledger(tmp_path / "t.csv"), seeds=1, jobs=2)
    called = []

    def tool(name, run, cfg, file, log, *arguments):
        called.append((name, run.name))
        raise ExperimentError("out of ink")

    monkeypatch.setattr(experiments, "prepare", lambda names: None)
    monkeypatch.setattr(experiments, "_tool", tool)
    with pytest.raises(ExperimentError, match=r"3 run\(s\) failed:") as caught:
        experiments.run()
    assert "synthcap, seed 0: out of ink" in str(caught.value)
    # A training that failed is not begun again for those that only test it.
    assert sorted(called) == [("train", "decap"), ("train", "synthcap")]
    assert "the training of decap has failed" in str(caught.value)
    assert experiments.ledger.rows == []


@pytest.mark.parametrize("of_best", [15.0, 35.0])  # a run that trains is the best, or one that tests another's
def test_where_runs_are_chosen_only_the_best_held_out_and_the_reference_are_tested(
    table, tmp_path, monkeypatch, of_best
):
    runs = {k: TABLE["runs"][k] for k in ("decap", "synthcap", "tau")} | {
        "more": {**TABLE["runs"]["synthcap"], "options": {"randomness.seed": 1, "train_cfg.max_epochs": 3}}
    }
    heldout = {"decap": 10.0, "synthcap": 30.0, "more": 20.0}
    tested = []

    def test(name, seed):
        tested.append((name, seed))
        return {"CIDEr": 1.0}

    def asked_for(only):
        asked = Experiments(table(runs=runs, test="best"), tmp_path / "work", Ledger(tmp_path / "t.csv"), only=only)
        for name, replaced in {
            "prepare": lambda names: None,
            "_validate": lambda name, seed: {"seconds": 1.0, "heldout_CIDEr": of_best},
            "_train": lambda name, seed: {"seconds": 1.0, "heldout_CIDEr": heldout[name] + seed},
            "_test": test,
        }.items():
            monkeypatch.setattr(asked, name, replaced)
        asked.run()
        return asked

    # The best of some is not the best: that waits for the others, and is not sought among those that are asked for.
    asked_for(["more", "decap"])
    assert tested == []
    asked_for(["synthcap", "tau"])
    experiments = asked_for(["more"])
    best = "synthcap" if of_best < 30 else "tau"
    assert sorted(tested) == [("decap", 0), ("decap", 1), (best, 0), (best, 1)]
    assert experiments.column("more", "heldout_CIDEr") == [20.0, 21.0] and experiments.column("more", "CIDEr") == []


def test_the_page_has_means_intervals_and_ties(table, tmp_path):
    experiments = Experiments(table(), tmp_path / "work", Ledger(tmp_path / "t.csv"))
    for seed, cider in enumerate((100.0, 104.0)):
        finished(experiments, "decap", seed, cider)
        finished(experiments, "synthcap", seed, cider + 5)
    finished(experiments, "tau", 0, 100.001)
    found = differences(experiments)
    assert set(found) == {("synthcap", "decap", "test"), ("tau", "decap", "test")}
    assert found["synthcap", "decap", "test"] == {k: pytest.approx(5.0) for k in ("mean_difference", "low", "high")}
    text = section(experiments, "results/trial.png")
    assert "| DeCap | 2 | 50.0 ± 0.0 | 102.0 ± 2.8 | 10.0 ± 0.0 | – |" in text
    assert "| SynTIC | 2 | 50.0 ± 0.0 | 107.0 ± 2.8 | 10.0 ± 0.0 | +5.0 [+5.0, +5.0] |" in text
    assert f"`python tools/experiments.py {tmp_path / 'trial.json'}`" in text
    assert "**1 runs are not finished.**" in text and "commit abc" in text and "![Trial](results/trial.png)" in text
    assert draw_plot(experiments, tmp_path / "p.png") and (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    # Other pairs have a table of their own; the first seed is what they have in common.
    assert "difference [95 %]" not in text
    pairs = Experiments(table(compare=[["synthcap", "tau"]]), tmp_path / "work", experiments.ledger)
    assert ("| difference [95 %] | CIDEr |\n|---|---|\n| SynTIC − DeCap, other tau | +5.0 [+5.0, +5.0] |\n") in section(
        pairs
    )
    # A difference around 0 is a tie; the same scores on other images are no pairs.
    file = experiments.folder("synthcap", 0) / "test" / "images.json"
    kept = json.loads(file.read_text())
    rng = np.random.default_rng(5)
    for entry in kept["images"].values():
        entry["scores"]["CIDEr"] = 99.0 + float(rng.normal()) * 20
    write_json(file, kept)
    (one,) = [line for line in section(experiments).splitlines() if line.startswith("| SynTIC |")]
    assert one.endswith(", tie |")
    kept["images"].pop("3")
    write_json(file, kept)
    with pytest.raises(ExperimentError, match="synthcap and decap were tested on other images of test"):
        differences(experiments)
    assert mean_sd([]) == "–" and mean_sd([3.0]) == "3.0"


def test_the_page_needs_none_of_the_files_that_stay_where_the_runs_were_made(table, tmp_path):
    def there(seeds=2, work="work", **changes):
        read = table(**changes)
        return Experiments(read, tmp_path / work, Ledger(tmp_path / "t.csv"), seeds=seeds)

    for seed, gain in enumerate((2.0, 6.0)):
        finished(there(), "decap", seed, 100.0)
        finished(there(), "synthcap", seed, 100.0 + gain)
    text = section(there())
    assert "| +4.0 [+4.0, +4.0] |" in text
    written = (tmp_path / "trial_differences.csv").stat().st_mtime_ns
    assert section(there()) == section(there(work="elsewhere")) == text
    assert (tmp_path / "trial_differences.csv").stat().st_mtime_ns == written
    rows = read_rows(tmp_path / "trial_differences.csv")
    assert [(r["run"], r["test_set"], r["seeds"]) for r in rows] == [("synthcap", "test", "0 1")]
    # One seed's images do not replace what is known of two; more seeds' do.
    shutil.copytree(there().folder("synthcap", 0), there(work="part").folder("synthcap", 0))
    shutil.copytree(there().folder("decap", 0), there(work="part").folder("decap", 0))
    assert section(there(work="part")) == text
    # And what is known of two is not shown beside the means of one.
    (one,) = [line for line in section(there(1, work="elsewhere")).splitlines() if line.startswith("| SynTIC |")]
    assert one == "| SynTIC | 1 | 50.0 | 102.0 | 10.0 | – |"
    finished(there(3), "decap", 2, 100.0)
    finished(there(3), "synthcap", 2, 110.0)
    assert "| +6.0 [+6.0, +6.0] |" in section(there(3))
    # What was found with other settings is no answer.
    other = {**TABLE["runs"], "synthcap": {**TABLE["runs"]["synthcap"], "options": {"train_cfg.max_epochs": 1}}}
    assert differences(there(work="elsewhere", runs=other)) == {}


@pytest.mark.parametrize("name", [*table_names(), "benchmarks/real/variants.json"])
def test_the_page_of_results_is_what_the_csv_files_say(name, tmp_path, monkeypatch):
    """A table whose config was changed since must be written anew, so that the page shows what is left of it."""
    monkeypatch.chdir(ROOT)
    found = read_table(name)
    name = found.name
    for variable in found.environment:
        monkeypatch.setenv(variable, f"/{variable}")
    results = tmp_path / "results"
    shutil.copytree(ROOT / "docs" / "results", results)
    experiments = Experiments(found, tmp_path / "work", Ledger(results / f"{name}.csv"))
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    if not experiments.ledger.rows:
        assert f"<!-- {name} -->" not in page
        return
    text = section(experiments, f"results/{name}.png")
    assert (results / f"{name}.png").is_file()
    assert f"<!-- {name} -->\n{text}<!-- end of {name} -->\n" in page


def test_a_row_of_another_test_set_is_not_a_test_of_this_one(table, tmp_path):
    """The csv of a table that was tested on ``test`` before, and is on ``val`` now."""
    before = Experiments(table(), tmp_path / "work", Ledger(tmp_path / "t.csv"))
    finished(before, "decap", 0, 100.0)
    now = Experiments(table(tests=["val"]), tmp_path / "work", before.ledger)
    assert ("decap", 0) not in before.missing(["decap"], True) and ("decap", 0) in now.missing(["decap"], True)
    row = {**now.ledger.rows[0], "val/CIDEr": 50.0}
    now.ledger.put(row)
    assert ("decap", 0) not in now.missing(["decap"], True)
    assert now.column("decap", now.column_name("val", "CIDEr")) == [50.0]
    assert (
        "| run | seeds | held-out CIDEr | val/CIDEr | val/ObjectErrors-missed | val/CIDEr − DeCap [95 %] |"
        in section(now)
    )
    assert "| DeCap | 1 | 50.0 | 50.0 | – | – |" in section(now)


def test_a_part_of_the_page_is_replaced_and_the_others_stay(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nBy hand.\n")
    write_section(page, "a", "first \\1\n")
    write_section(page, "b", "second\n")
    write_section(page, "a", "third\n")
    assert (
        page.read_text()
        == "# Results\n\nBy hand.\n\n<!-- a -->\nthird\n<!-- end of a -->\n\n<!-- b -->\nsecond\n<!-- end of b -->\n"
    )


def test_a_table_that_makes_no_sense_is_refused(table, tmp_path):
    with pytest.raises(ExperimentError, match="no table 'nothing'; there are data, "):
        read_table("nothing")
    with pytest.raises(ExperimentError, match="reference 'x' is none of its runs"):
        table(reference="x")
    with pytest.raises(ExperimentError, match="is not a table of experiments"):
        table(runs={"decap": {"titel": "DeCap"}})
    with pytest.raises(ExperimentError, match="compare names nobody, none of its runs"):
        table(compare=[["decap", "nobody"]])
    with pytest.raises(ExperimentError, match="is not a table of experiments"):
        table(compare=[["decap"]])
    with pytest.raises(ExperimentError, match="run 'tau' is of 'tau', which is no run that trains"):
        table(runs={**TABLE["runs"], "tau": {**TABLE["runs"]["tau"], "of": "tau"}})
    with pytest.raises(ExperimentError, match="run 'tau' reads 'nobody', none of its runs"):
        table(runs={**TABLE["runs"], "tau": {**TABLE["runs"]["tau"], "reads": "nobody"}})
    with pytest.raises(ExperimentError, match="has no run nothing; its runs: decap"):
        Experiments(table(), tmp_path, Ledger(tmp_path / "t.csv"), only=["nothing"])
    with pytest.raises(ExperimentError, match="needs the environment variable"):
        Experiments(table(environment=["SYNTHCAP_NOT_SET"]), tmp_path, Ledger(tmp_path / "t.csv"))


def test_stores_are_made_for_runs_that_only_test_too(tmp_path, monkeypatch):
    """The second dialect's memory, which their trainings do not read; each store once."""
    dialect = read_table("dialect")
    experiments = Experiments(dialect, tmp_path / "work", Ledger(tmp_path / "t.csv"))
    made = []

    def tool(name, run, cfg, file, log, *arguments):
        made.append((name, cfg.synthesis.store))

    monkeypatch.setattr(experiments, "_tool", tool)
    experiments.prepare(["synthcap_tt", "decap_tt"])
    stores = [store for name, store in made if name == "synthesize"]
    assert len(stores) == len(set(stores)) == 2
    assert config_of(dialect.runs["synthcap_tt"]).model.necks[0].memory in stores
    for run in dialect.runs.values():
        memories = {neck.get("memory") for neck in config_of(run).model.necks} - {None}
        own = {config_of(dialect.runs[name]).synthesis.store for name in (run.name, run.reads) if name is not None}
        assert memories <= own, run.name


def test_other_settings_than_the_tables_need_a_page_of_their_own(table, tmp_path):
    table()
    command = [sys.executable, ROOT / "tools" / "experiments.py", tmp_path / "trial.json", "--no-run"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = ["--cfg-options", "train_cfg.max_epochs=1"]
    for out in ([], ["--out", "docs/../docs"]):
        refused = subprocess.run([*command, *out, *options], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert refused.returncode == 2 and "with --out" in refused.stderr
    assert not (tmp_path / "docs").exists()


@pytest.mark.slow
def test_a_table_from_nothing_to_the_page_and_again(table, tmp_path):
    """Three runs in small: one with curated pairs, one that tests another's checkpoint with other settings."""
    runs = {**TABLE["runs"], "synthcap": {"title": "SynTIC, curated", "config": "sync/sync_mini.py"}}
    table(runs=runs)
    options = ["synthesis.captions.num=200", "train_cfg.max_epochs=1", "photo_stores.0.photos.num=12",
               "photo_stores.1.photos.num=12", "model.head.generation.num_beams=1", "model.head.layers=1"]  # fmt: skip
    command = [
        sys.executable,
        ROOT / "tools" / "experiments.py",
        "trial.json",
        "--seeds",
        "1",
        "--out",
        "page",
        "--cfg-options",
        *options,
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    first = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    rows = Ledger(tmp_path / "page" / "results" / "trial.csv").rows
    assert [row["run"] for row in rows] == ["decap", "synthcap", "tau"] and all(row["ObjectErrors-i"] for row in rows)
    assert (
        float(rows[0]["heldout_CIDEr"]) >= 0 and float(rows[2]["heldout_CIDEr"]) >= 0 and float(rows[0]["seconds"]) > 1
    )
    (images,) = (tmp_path / "work_dirs" / "experiments" / "trial").glob("decap-*/seed0/test/images.json")
    assert len(json.loads(images.read_text())["images"]) == 12
    page = (tmp_path / "page" / "results.md").read_text()
    # One seed was asked for, the table has two.
    assert "**3 runs are not finished.**" in page
    assert "| DeCap, other tau | 1 |" in page and "![Trial](results/trial.png)" in page
    assert [f.name.split("-")[0] for f in (tmp_path / "work_dirs/experiments/trained").iterdir()].count("decap") == 1
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "work_dirs").rglob("*") if p.is_file()}
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert again.returncode == 0 and "to do" not in again.stdout + again.stderr
    assert "nothing is run: 3 finished runs are in " in again.stdout + again.stderr
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "work_dirs").rglob("*") if p.is_file()} == before
