"""The code of docs/metrics.md is run as it stands there."""

import re
from pathlib import Path

import pytest

from synthcap_mm.evaluation import CaptionMetric, score_captions
from synthcap_mm.registry import CAPTION_SCORERS, METRICS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()


def test_the_metric_of_the_page_works():
    config, own, by_characters, _ = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    scope: dict = {}
    exec(config, scope)
    assert isinstance(METRICS.build(scope["test_evaluator"]), CaptionMetric)
    exec(by_characters, scope)
    assert METRICS.build(scope["val_evaluator"]).tokenize == "char"
    try:
        exec(own, scope)
        averages, _ = score_captions({"a": "A red dog.", "b": "a dog"}, {"a": ["a"], "b": ["b"]}, ["colours"])
        assert averages == {"colours": pytest.approx(50)}
    finally:
        CAPTION_SCORERS.module_dict.pop("colours", None)


def test_the_page_names_every_metric():
    CAPTION_SCORERS.import_from_location()
    table = "\n".join(re.findall(r"^\| (`.*?) \|", PAGE, re.M))
    assert set(re.findall(r"`(\w+)`", table)) == {n for n in CAPTION_SCORERS.module_dict if n != "colours"}
