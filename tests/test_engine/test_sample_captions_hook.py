"""Seeing it learn."""

import re
from types import SimpleNamespace

from small_runner import make_runner

from synthcap_mm.engine import SampleCaptionsHook
from synthcap_mm.structures import CaptionSample


def logged(runner, monkeypatch):
    lines = []
    original = runner.logger.info
    monkeypatch.setattr(runner.logger, "info", lambda m, *a, **k: lines.append(str(m)) or original(m, *a, **k))
    return lines


def test_the_same_images_are_logged_each_epoch(tiny_model, tiny_stores, tmp_path, monkeypatch):
    tiny_model["head"]["generation"] = {"num_beams": 1}
    runner, _ = make_runner(tiny_model, tiny_stores, tmp_path, epochs=2)
    lines = logged(runner, monkeypatch)
    runner.train()
    keys = [m[1] for m in (re.match(r"caption of (\S+?)( \[.*\])?: ", line) for line in lines) if m]
    heldout = [s.key for s in (runner.val_dataloader.dataset[i] for i in range(4))]
    assert keys == heldout[:3] * 2  # num=3, of batches of 2


def test_a_line_has_tags_caption_and_reference():
    lines = []
    runner = SimpleNamespace(logger=SimpleNamespace(info=lines.append))
    hook = SampleCaptionsHook(num=2)
    hook.before_val_epoch(runner)
    first = CaptionSample(0, "a.jpg", references=["a dog", "the dog"], pred_caption="a cat", pred_tags=["dog", "sea"])
    hook.after_val_iter(runner, 0, None, [first])
    hook.after_val_iter(runner, 1, None, [CaptionSample(i, f"{i}.jpg", pred_caption="x") for i in (1, 2)])
    hook.after_val_epoch(runner, {})
    assert lines == ["caption of a.jpg [dog, sea]: a cat   | a dog", "caption of 1.jpg: x"]
    hook.before_val_epoch(runner)
    hook.after_val_epoch(runner, {})
    assert len(lines) == 2
