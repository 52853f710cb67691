"""A training goes on from checkpoints of its own kind only, and believes no path in them."""

import copy
import shutil

import pytest
import torch
from mmengine.logging import HistoryBuffer
from small_runner import make_runner

from synthcap_mm.engine.testing import _chosen_by
from synthcap_mm.errors import UserError
from synthcap_mm.weights_files import read_checkpoint


@pytest.fixture()
def trained(tiny_model, tiny_stores, tmp_path):
    folder = tmp_path / "trained"
    runner, _ = make_runner(tiny_model, tiny_stores, folder, epochs=1)
    runner.train()
    return folder


@pytest.fixture()
def resume(tiny_model, tiny_stores, trained, tmp_path):
    """Makes a runner resume from the trained one's checkpoint, changed."""

    def resume(change, folder=None):
        checkpoint = copy.deepcopy(read_checkpoint(trained / "epoch_1.pth"))
        change(checkpoint)
        torch.save(checkpoint, tmp_path / "changed.pth")
        runner, _ = make_runner(
            tiny_model,
            tiny_stores,
            folder or tmp_path / "work",
            epochs=2,
            resume=True,
            load_from=str(tmp_path / "changed.pth"),
        )
        runner.train()
        return runner

    return resume


def test_a_copied_work_dir_is_resumed_from_its_own_checkpoint(tiny_model, tiny_stores, trained, tmp_path):
    copied = shutil.copytree(trained, tmp_path / "copied")
    (trained / "epoch_1.pth").write_text("of another training by now")
    runner, _ = make_runner(tiny_model, tiny_stores, copied, epochs=2, resume=True)
    runner.train()
    assert runner._load_from == str(copied / "epoch_1.pth")
    assert runner.epoch == 2 and (copied / "epoch_2.pth").is_file() and not (trained / "epoch_2.pth").exists()


def test_where_nothing_was_saved_a_resumed_training_begins(tiny_model, tiny_stores, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "last_checkpoint").write_text(str(trained / "epoch_1.pth"))
    runner, diary = make_runner(tiny_model, tiny_stores, tmp_path / "empty", epochs=1, resume=True)
    runner.train()
    assert runner.epoch == 1 and min(diary.losses) == 0


def test_no_path_of_the_file_is_touched(resume, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "best_x.pth").touch()

    def change(checkpoint):
        info = checkpoint["message_hub"]["runtime_info"]
        info.update(best_ckpt=str(tmp_path / "precious"), best_score=-1e9, last_ckpt=str(tmp_path / "precious"))
        info.update(keep_ckpt_ids=["../../precious/best_x"] * 5)

    resume(change)
    assert (tmp_path / "precious" / "best_x.pth").is_file()


def test_the_best_checkpoint_of_the_own_folder_is_known(resume, trained):
    kept = next(trained.glob("best_*.pth"))

    def change(checkpoint):
        checkpoint["message_hub"]["runtime_info"].update(best_ckpt=f"/elsewhere/{kept.name}", best_score=1e9)

    runner = resume(change, trained)
    assert runner.message_hub.get_info("best_ckpt") == str(kept) and kept.is_file()


OTHER_KINDS = [
    (("meta", "epoch"), -1),
    (("meta", "epoch"), float("nan")),
    (("meta", "iter"), "1"),
    (("meta", "seed"), -5),
    (("meta", "seed"), True),
    (("message_hub",), 3),
    (("message_hub", "log_scalars"), [1]),
    (("param_schedulers",), {}),
    (("param_schedulers", 0, "total_iters"), 0),
    (("param_schedulers", 0, "last_step"), -(10**9)),
    (("param_schedulers", 0, "last_step"), "x"),
    (("param_schedulers", 0, "_get_value"), 3),
    (("optimizer", "param_groups", 0, "lr"), "abc"),
    (("optimizer", "param_groups", 0, "lr"), float("inf")),
    (("optimizer", "param_groups", 0, "params"), [0]),
    (("optimizer", "state", 0, "exp_avg"), torch.zeros(3, 3, 3)),
    (("optimizer", "state", 0, "step"), torch.tensor(float("nan"))),
    (("optimizer", "state", 999), {}),
]


def test_fields_of_other_kinds_are_refused_by_name(resume):
    for field, value in OTHER_KINDS:

        def change(checkpoint, field=field, value=value):
            part = checkpoint
            for name in field[:-1]:
                part = part[name]
            part[field[-1]] = value

        with pytest.raises(UserError, match=str(field[-1])):
            resume(change)


def test_epochs_of_another_length_are_refused(resume):
    def change(checkpoint):
        checkpoint["meta"]["iter"] *= 3

    with pytest.raises(UserError, match="batch size"):
        resume(change)


def test_only_histories_are_asked_for_their_values():
    class Trap:
        def current(self):
            raise AssertionError("called")

    scalars = {"val/a": Trap(), "val/b": HistoryBuffer([2.0], [1]), 3: 1, "val/c": HistoryBuffer([], [])}
    found = _chosen_by({"message_hub": {"log_scalars": scalars}, "meta": {"epoch": "x"}})
    assert found == {"epoch": None, "metrics": {"b": 2.0}}
    assert _chosen_by({"message_hub": {"log_scalars": 3}}) is None
