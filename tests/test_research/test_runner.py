"""The runner of research: what a table says, what is run again and what is not, and the page from the csv files."""

import dataclasses
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

from research.ledger import Ledger, read_rows
from research.page import differences, draw_plot, mean_sd, section, write_section
from research.run import PUBLISHED, parse_args
from research.runner import Experiments, training_seconds
from research.tables import Run, config_hash, config_of, read_table, table_names, training_hash
from synthcap_mm.errors import UserError
from synthcap_mm.files import write_json

ROOT = Path(__file__).resolve().parents[2]
TABLE = {
    "title": "Trial", "note": "A note.", "reference": "decap", "metrics": ["CIDEr", "ObjectErrors-missed"], "seeds": 2,
    "runs": {
        "decap": {"title": "DeCap", "config": "decap/decap_mini.py"},
        "synthcap": {"title": "SynTIC", "config": "synthcap_mini.py"},
        "tau": {"title": "DeCap, other tau", "config": "decap/decap_mini.py", "of": "decap",
                "options": {"model.necks.memory.temperature": 0.02}},
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


@pytest.fixture()
def published(monkeypatch, request):
    """A published table; the variables that it wants are set."""
    monkeypatch.chdir(ROOT)
    found = read_table(request.param)
    for variable in found.environment:
        monkeypatch.setenv(variable, f"/{variable}")
    return found


every_table = pytest.mark.parametrize("published", table_names(), indirect=True)


# ---- tables
@pytest.mark.slow
@every_table
def test_published_tables_name_configs_that_are_there_and_settings_that_differ(published):
    hashes = {(config_hash(config_of(run)), run.of) for run in published.runs.values()}
    assert len(hashes) == len(published.runs) and published.seeds >= 3
    assert (published.x is not None) == any(run.x is not None for run in published.runs.values())
    for run in published.runs.values():
        cfg, plain = config_of(run), config_of(dataclasses.replace(run, options={}))
        assert set(published.tests) <= {Path(entry.store).name for entry in cfg.photo_stores}
        assert "end" not in cfg.param_scheduler[-1]  # it ends with the training
        assert (plain.to_dict() != cfg.to_dict()) == bool(run.options), run.name
        memories = {neck.get("memory") for neck in cfg.model.necks.values() if neck} - {None}
        own = {config_of(published.runs[name]).synthesis.store for name in (run.name, run.reads) if name is not None}
        assert memories <= own, run.name


def test_a_configs_path_is_relative_to_its_table_or_to_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text("a = 1\ntest_cfg = None\n")
    runs = {"own": {"title": "Own", "config": "own.py"}, "mini": {"title": "Shipped", "config": "synthcap_mini.py"}}
    (tmp_path / "mine" / "t.json").write_text(json.dumps({**TABLE, "runs": runs, "reference": "own"}))
    assert config_of(read_table(str(tmp_path / "mine" / "t.json")).runs["own"]).a == 1
    monkeypatch.chdir(tmp_path)
    (run,) = read_table("mine/own.py").runs.values()
    assert run.name == "own" and config_of(run).a == 1
    with pytest.raises(UserError, match="data, dialect"):
        read_table("mine/other.py")


def test_a_table_that_names_what_is_not_there_is_refused(table, tmp_path):
    for wrong in (
        {"reference": "x"},
        {"compare": [["decap", "nobody"]]},
        {"compare": [["decap"]]},
        {"runs": {"decap": {"titel": "DeCap"}}},
        {"runs": {**TABLE["runs"], "tau": {**TABLE["runs"]["tau"], "of": "tau"}}},
        {"runs": {**TABLE["runs"], "tau": {**TABLE["runs"]["tau"], "reads": "nobody"}}},
    ):
        with pytest.raises(UserError, match=r"trial\.json"):
            table(**wrong)
    with pytest.raises(UserError, match="nothing"):
        Experiments(table(), tmp_path, Ledger(tmp_path / "t.csv"), only=["nothing"])
    with pytest.raises(UserError, match="SYNTHCAP_NOT_SET"):
        Experiments(table(environment=["SYNTHCAP_NOT_SET"]), tmp_path, Ledger(tmp_path / "t.csv"))


def test_settings_decide_the_hash_and_folders_do_not(monkeypatch):
    def digest(options=None, seed=0, config="decap/decap_mini.py", of=None):
        return config_hash(config_of(Run("x", "X", config, options or {}), seed), of)

    neutral = {"default_hooks.logger.interval": 7, "work_dir": "there", "custom_imports": {"imports": ["json"]}}
    assert digest() == digest(seed=3) == digest(neutral)
    assert digest() != digest({"optim_wrapper.optimizer.lr": 1.0})
    assert digest() != digest({"synthesis.generator.drop": 0.5})
    assert digest() != digest({"load_from": "a.pth"}) and digest() != digest({"custom_hooks.0.type": "EMAHook"})
    assert len({digest(), digest(of="a"), digest(of="b")}) == 3
    monkeypatch.setenv("SYNTHCAP_ONE", "/data/one")
    monkeypatch.setenv("SYNTHCAP_OTHER", "/data/one/other")
    one, other = (digest({"store": f"/data/one{below}/pairs"}) for below in ("", "/other"))
    monkeypatch.setenv("SYNTHCAP_ONE", "/x/in")
    monkeypatch.setenv("SYNTHCAP_OTHER", "/x")
    assert one == digest({"store": "/x/in/pairs"}) and other == digest({"store": "/x/pairs"}) and one != other


def test_what_is_only_tested_on_is_no_part_of_a_training():
    def digest(config="synthcap_mini.py", **options):
        cfg = config_of(Run("x", "X", config, {k.replace("__", "."): v for k, v in options.items()}))
        return training_hash(cfg), config_hash(cfg)

    plain, other = digest(), digest(photo_stores=[{"store": "data/miniscenes/second_test", "photos": {"num": 3}}])
    assert plain[0] == other[0] and plain[1] != other[1]
    assert plain[0] == digest(test_evaluator__metrics=["CIDEr"])[0]
    assert plain[0] != digest(val_evaluator__metrics=["CIDEr"])[0]
    assert plain[0] != digest(model__necks__memory__temperature=0.02)[0]
    # Photos that a neck reads while it is trained do count, the others do not.
    moments = "synthcap/synthcap_mini_moments.py"
    assert digest(moments)[0] == digest(moments, photo_stores__0__photos__num=12)[0]
    assert digest(moments)[0] != digest(moments, photo_stores__1__photos__num=12)[0]


@pytest.mark.slow
def test_variants_use_the_trainings_of_the_table_real(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHCAP_REAL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SYNTHCAP_REAL_WORK", str(tmp_path / "out"))
    real, variants = (
        Experiments(read_table(name), tmp_path, Ledger(tmp_path / "none.csv")) for name in ("real", "variants")
    )
    both = real.hashes.keys() & variants.hashes.keys()  # of the same name: the same run
    assert {"synthcap", "decap", "capdec", "plus"} <= both
    assert {name: variants.hashes[name] for name in both} == {name: real.hashes[name] for name in both}
    for name, of in [*zip(both, both), ("decap_tau0.04", "decap")]:
        assert variants.trained_folder(name, 1) == real.trained_folder(of, 1)


# ---- what is run


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

    def tool(name, cfg, file, log, *arguments):
        trained.append(file.stem)
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


def test_the_ledger_has_whole_rows_of_all_writers(tmp_path):
    one, other = Ledger(tmp_path / "r" / "t.csv"), Ledger(tmp_path / "r" / "t.csv")
    base = {"hash": "h", "commit": "c", "seconds": 3, "heldout_CIDEr": 1.0, "run": "a"}
    threads = [
        threading.Thread(target=ledger.put, args=({**base, "seed": s, "CIDEr": s / 3},))
        for s, ledger in enumerate([one, other] * 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.put({**base, "seed": 2, "CIDEr": 9.0, "extra": "x"})  # in place of the same run's
    one.put({**base, "seed": 2, "hash": "other", "CIDEr": 5.0})
    again = Ledger(one.path)
    assert len(again.rows) == 9 and again.find("a", "h", 2)["CIDEr"] == "9.0000" and again.find("a", "x", 2) is None
    assert again.newest_hash("a") == "other" and again.newest_hash("b") is None
    assert [p.name for p in one.path.parent.iterdir()] == ["t.csv"]


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
    monkeypatch.setattr("research.runner.print_log", lambda text, **kwargs: told.append(text))
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

    def tool(name, cfg, file, log, *arguments):
        called.append((name, file.stem))
        raise UserError("out of ink")

    monkeypatch.setattr(experiments, "prepare", lambda names: None)
    monkeypatch.setattr(experiments, "_tool", tool)
    with pytest.raises(UserError, match=r"3 run\(s\) failed:") as caught:
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


def test_stores_are_made_for_runs_that_only_test_too(tmp_path, monkeypatch):
    """The second dialect's memory, which their trainings do not read; each store once."""
    dialect = read_table("dialect")
    experiments = Experiments(dialect, tmp_path / "work", Ledger(tmp_path / "t.csv"))
    made = []

    def tool(name, cfg, file, log, *arguments):
        made.append((name, cfg.synthesis.store))

    monkeypatch.setattr(experiments, "_tool", tool)
    experiments.prepare(["synthcap_tt", "decap_tt"])
    stores = [store for name, store in made if name == "synthesize"]
    assert len(stores) == len(set(stores)) == 2
    assert config_of(dialect.runs["synthcap_tt"]).model.necks.memory.memory in stores


# ---- the page
@pytest.mark.slow
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
    assert f"`python -m research.run {tmp_path / 'trial.json'}`" in text
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
    with pytest.raises(UserError, match="synthcap and decap were tested on other images of test"):
        differences(experiments)
    assert mean_sd([]) == "–" and mean_sd([3.0]) == "3.0"


@pytest.mark.slow
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
    # Nor does a page need that today's settings are those which gave its figures; but they are not taken for finished.
    other = {**TABLE["runs"], "synthcap": {**TABLE["runs"]["synthcap"], "options": {"train_cfg.max_epochs": 1}}}
    later = there(3, work="elsewhere", runs=other)
    assert section(later) == section(there(3)) and ("synthcap", 0) in later.missing(["synthcap"], True)
    finished(later, "synthcap", 0, 130.0)
    assert "| SynTIC | 1 | 50.0 | 130.0 | 10.0 |" in section(later)


@pytest.mark.slow
@every_table
def test_the_published_page_is_what_the_csv_files_say(published, tmp_path):
    shutil.copytree(PUBLISHED / "results", tmp_path / "results")
    ledger = Ledger(tmp_path / "results" / f"{published.name}.csv")
    text = section(Experiments(published, tmp_path / "work", ledger), f"results/{published.name}.png")
    assert (PUBLISHED / "results" / f"{published.name}.png").is_file() and "not finished" not in text
    page = (PUBLISHED / "results.md").read_text(encoding="utf-8")
    assert f"<!-- {published.name} -->\n{text}<!-- end of {published.name} -->\n" in page


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


def test_other_settings_than_a_published_tables_need_a_page_of_their_own():
    options = ["mini", "--cfg-options", "train_cfg.max_epochs=1"]
    with pytest.raises(SystemExit):
        parse_args(options)
    with pytest.raises(SystemExit):
        parse_args(["--out", str(PUBLISHED / ".." / "logs"), *options])
    assert parse_args(["--out", "page", *options]).out == Path("page")
    assert parse_args(["synthcap_mini.py", *options[1:]]).out == Path("work_dirs/experiments/synthcap_mini")


@pytest.mark.slow
def test_a_table_from_nothing_to_the_page_and_again(table, tmp_path):
    """Three runs in small: one with curated pairs, one that tests another's checkpoint with other settings."""
    runs = {**TABLE["runs"], "synthcap": {"title": "SynTIC, curated", "config": "sync/sync_mini.py"}}
    table(runs=runs)
    options = ["synthesis.captions.num=200", "train_cfg.max_epochs=1", "photo_stores.0.photos.num=12",
               "photo_stores.1.photos.num=12", "model.head.generation.num_beams=1", "model.head.layers=1"]  # fmt: skip
    command = [sys.executable, "-m", "research.run", "trial.json", "--seeds", "1", "--out", "page", "--cfg-options",
               *options]  # fmt: skip
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
    # One config with several seeds: its own test set, all of its metrics. The training is that of the table.
    command = [sys.executable, "-m", "research.run", ROOT / "configs/decap/decap_mini.py", "--seeds", "1",
               "--cfg-options", *options]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = Ledger(tmp_path / "work_dirs/experiments/decap_mini/results/decap_mini.csv").rows
    assert row["CIDEr"] == rows[0]["CIDEr"] and row["BLEU-4"]
    assert "| run | seeds | held-out CIDEr | CIDEr | BLEU-1 |" in done.stdout + done.stderr
    trained = (tmp_path / "work_dirs" / "experiments" / "trained").iterdir()
    assert [f.name.split("-")[0] for f in trained].count("decap") == 1
