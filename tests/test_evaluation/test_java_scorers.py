import os
import shutil
import stat

import pytest

from synthcap_mm.evaluation import CaptionSet, java_scorers, score_set
from synthcap_mm.evaluation.java_scorers import Meteor, Spice
from synthcap_mm.evaluation.scorer import SkippedError

PREDICTIONS = {
    "a": "a dog runs along the beach",
    "b": "",
    "c": "un café près de l'école ||| 日本",
    "d": "two men\nriding horses | | |",
    "e": "kids are playing",
}
REFERENCES = {
    "a": ["A dog runs on the beach.", "The hound is running along the sand.", "a dog"],
    "b": ["A cat.", "||| bars"],
    "c": ["Un café près de l'école, 日本.", "a cafe"],
    "d": ["Two men ride horses.\nIn a field.", "A couple of men on horseback"],
    "e": ["Children playing in the park"],
}


@pytest.fixture(scope="module")
def java():
    if shutil.which("java") is None:
        pytest.skip("JAVA ABSENT: METEOR is not run")


@pytest.mark.slow
def test_meteor_is_pycocoevalcaps(java):
    from pycocoevalcap.meteor.meteor import Meteor as Original

    captions = CaptionSet(PREDICTIONS, REFERENCES)
    found = score_set(captions, {"METEOR": Meteor()})
    plain = [key for key in captions.keys if key != "c"]  # the original writes and reads in the locale's encoding
    whole, each = Original().compute_score(
        {key: captions.truth[key] for key in plain}, {key: captions.hypotheses[key] for key in plain}
    )
    assert [found.per_image[key]["METEOR"] for key in plain] == pytest.approx([100 * one for one in each])
    assert 100 * whole == pytest.approx(score_set(captions.subset(plain), {"METEOR": Meteor()}).averages["METEOR"])
    assert found.per_image["b"]["METEOR"] == 0 and found.per_image["c"]["METEOR"] > 45
    assert found.per_image["e"]["METEOR"] > 10, "kids and children are synonyms"
    assert found.notes["METEOR"].startswith("METEOR 1.5 (-l en -norm), ") and not found.skipped


def fake_java(folder, monkeypatch, script):
    """A `java` on the PATH that does as the script says."""
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    java_scorers.java_version.cache_clear()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Could not reserve enough space for object heap' >&2; exit 1", "Could not reserve enough space"),
        ("read line; echo 1.0; exit 0", "Java said nothing"),
    ],
)
def test_java_that_breaks_off_is_told_and_no_zero(tmp_path, monkeypatch, script, said):
    fake_java(tmp_path, monkeypatch, script)
    found = score_set(CaptionSet(PREDICTIONS, REFERENCES), {"METEOR": Meteor()})
    assert "METEOR" not in found.averages
    assert said in found.skipped["METEOR"]


def test_a_missing_jar_is_named(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setattr(java_scorers, "_package", lambda: tmp_path)
    found = score_set(CaptionSet(PREDICTIONS, REFERENCES), {"METEOR": Meteor()})
    assert str(tmp_path / "meteor" / "meteor-1.5.jar") in found.skipped["METEOR"]


@pytest.fixture()
def spice_files(tmp_path, monkeypatch):
    """A package folder with the files that SPICE wants, and a Java."""
    fake_java(tmp_path, monkeypatch, "echo 'openjdk version \"11.0\"' >&2")
    lib = tmp_path / "spice" / "lib"
    lib.mkdir(parents=True)
    for name in Spice.files:
        (lib / name).touch()
    monkeypatch.setattr(java_scorers, "_package", lambda: tmp_path)


class FakeSpice:
    """Answers as pycocoevalcap's class does."""

    error = None

    def compute_score(self, truth, hypotheses):
        assert list(truth) == list(hypotheses) == sorted(truth) and hypotheses["a"] == ["a dog runs along the beach"]
        if self.error:
            raise self.error
        each = [{"All": {"f": 0.1 * n if n else float("nan")}, "Color": {"f": float("nan")}} for n in range(len(truth))]
        return 0.25, each


def test_spice_is_called_as_pycocoevalcap_wants_it(spice_files, monkeypatch):
    """With a stand-in for the program, which cannot be had here: the call, not the figures."""
    import pycocoevalcap.spice.spice as module

    monkeypatch.setattr(module, "Spice", FakeSpice)
    found = score_set(CaptionSet(PREDICTIONS, REFERENCES), {"SPICE": Spice()})
    assert found.averages == {"SPICE": pytest.approx(25)} and found.per_image["c"]["SPICE"] == pytest.approx(20)
    assert "SPICE" not in found.per_image["a"]  # no number is no zero
    assert found.notes["SPICE"] == 'SPICE 1.0, openjdk version "11.0"'


def test_spice_that_fails_is_told(spice_files, monkeypatch):
    import subprocess

    import pycocoevalcap.spice.spice as module

    monkeypatch.setattr(module, "Spice", FakeSpice)
    monkeypatch.setattr(FakeSpice, "error", subprocess.CalledProcessError(1, "java"))
    with pytest.raises(SkippedError, match="openjdk"):
        Spice().score(CaptionSet(PREDICTIONS, REFERENCES))


def test_spice_downloads_nothing_and_says_what_goes_where():
    why = Spice().lacks(CaptionSet(PREDICTIONS, REFERENCES))
    assert "stanford-corenlp-3.6.0-models.jar" in why and "stanford-corenlp-full-2015-12-09.zip" in why
