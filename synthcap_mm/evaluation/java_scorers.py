"""METEOR and SPICE: the official Java programs, which pycocoevalcap brings."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.scorer import CaptionScorer, Scores, SkippedError
from synthcap_mm.registry import CAPTION_SCORERS
from synthcap_mm.requirements import require


def _package() -> Path:
    require("pycocoevalcap", purpose="METEOR and SPICE")
    return Path(importlib.util.find_spec("pycocoevalcap").submodule_search_locations[0])


@lru_cache(maxsize=1)
def java_version() -> str:
    """What ``java -version`` says first, e.g. ``'openjdk version "17.0.15" 2025-04-15'``."""
    done = subprocess.run(["java", "-version"], capture_output=True, text=True)
    return (done.stderr or done.stdout).partition("\n")[0].strip() or "an unknown version"


@CAPTION_SCORERS.register_module("METEOR")
class Meteor(CaptionScorer):
    """``METEOR`` ×100, version 1.5, English, as in the COCO evaluation; of the whole set, no mean of the images'.

    The same program and protocol as pycocoevalcap's own class, but all captions are
    written at once, in UTF-8 whatever the locale, and a failure says what Java said.

    Args:
        memory (str): Java's heap. Defaults to ``'2G'``, as in pycocoevalcap.
    """

    needs = ("java", "words")
    version = "1.5"

    def __init__(self, memory: str = "2G") -> None:
        self.memory = memory

    def _jar(self) -> Path:
        return _package() / "meteor" / f"meteor-{self.version}.jar"

    def lacks(self, captions: CaptionSet) -> str | None:
        """See :class:`CaptionScorer`."""
        jar = self._jar()
        paraphrases = jar.parent / "data" / "paraphrase-en.gz"
        missing = next((file for file in (jar, paraphrases) if not file.is_file()), None)
        return super().lacks(captions) or (missing and f"needs {missing}, which pycocoevalcap brings")

    def describe(self) -> str:
        """See :class:`CaptionScorer`."""
        return f"METEOR {self.version} (-l en -norm), {java_version()}"

    @staticmethod
    def _clean(text: str) -> str:
        # The protocol divides fields by three bars and messages by line breaks.
        return " ".join(text.replace("|||", " ").split())

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        lines = [
            " ||| ".join(["SCORE", *map(self._clean, captions.truth[key]), self._clean(captions.hypotheses[key][0])])
            for key in captions.keys
        ]
        command = ["java", "-Dfile.encoding=UTF-8", f"-Xmx{self.memory}", "-jar", str(self._jar())]
        with tempfile.TemporaryFile() as complaints:
            java = subprocess.Popen(
                [*command, "-", "-", "-stdio", "-l", "en", "-norm"],
                cwd=self._jar().parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                encoding="utf-8",
            )

            def write() -> None:
                try:
                    java.stdin.writelines(line + "\n" for line in lines)
                    java.stdin.flush()
                except (BrokenPipeError, ValueError):
                    pass  # Java has ended; read() reports it

            def read(count: int) -> list[str]:
                found = [java.stdout.readline().strip() for _ in range(count)]
                if "" in found:
                    complaints.seek(0)
                    said = complaints.read().decode(errors="replace").strip().splitlines()
                    raise SkippedError(f"METEOR {self.version} broke off: {said[0] if said else 'Java said nothing'}")
                return found

            # Write in a thread of its own: with full pipes, both processes would wait for the other to read.
            writer = threading.Thread(target=write, daemon=True)
            try:
                writer.start()
                statistics = read(len(lines))
                writer.join()
                java.stdin.write("EVAL ||| " + " ||| ".join(statistics) + "\n")
                java.stdin.flush()
                *each, whole = [100 * float(value) for value in read(len(lines) + 1)]
            finally:
                java.kill()
                java.wait()
                writer.join()
                for pipe in (java.stdin, java.stdout):
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        return Scores({"METEOR": whole}, {"METEOR": each})


@CAPTION_SCORERS.register_module("SPICE")
class Spice(CaptionScorer):
    """``SPICE`` ×100 (Anderson et al., ECCV 2016), by pycocoevalcap.

    It wants Stanford CoreNLP 3.6.0, which pycocoevalcap does not bring and would
    download; here nothing is downloaded: the two files are named beforehand, with
    their place. **This call has not been run**, since they could not be had.
    """

    needs = ("java", "words")
    files = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

    def lacks(self, captions: CaptionSet) -> str | None:
        """See :class:`CaptionScorer`."""
        folder = _package() / "spice" / "lib"
        missing = [name for name in self.files if not (folder / name).is_file()]
        if missing:
            return (
                f"needs {' and '.join(missing)} in {folder}: both are in stanford-corenlp-full-2015-12-09.zip, "
                "http://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
            )
        return super().lacks(captions)

    def describe(self) -> str:
        """See :class:`CaptionScorer`."""
        return f"SPICE 1.0, {java_version()}"

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        scorer = require("pycocoevalcap.spice.spice", purpose="SPICE").Spice()
        print_log(f"SPICE writes its cache and temporary files into {_package() / 'spice'}", logger="current")
        try:
            _, each = scorer.compute_score(captions.truth, captions.hypotheses)
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            raise SkippedError(
                f"SPICE broke off ({error}). It is written for Java 8 or 11; this is {java_version()}"
            ) from error
        scores = np.array([100 * image["All"]["f"] for image in each])
        return Scores({"SPICE": float(np.nanmean(scores))}, {"SPICE": scores})
