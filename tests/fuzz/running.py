"""Runs each case in a forked child that is watched, and judges how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from .making import quiet
from .watch import TOKEN, Watch, plant_victims, victims_touched

#: refused: with a sentence. unnamed: with one that does not name the field of the config. same: accepted, with the
#: result of the undamaged input. other: accepted as another valid input, since nothing could tell (no checksum covers it,
#: or the attacker made it right).
FINE = ("refused", "unnamed", "same", "other")
#: executed: something was run, imported or asked over a network. outside: a file was opened or changed that is not the
#: input's. damaged: another result without a word, though a checksum or the format told. traceback: an error that the
#: commands do not turn into a sentence. crash: a signal. hang: more than the kind's ``seconds``.
FAULTS = ("executed", "outside", "damaged", "traceback", "crash", "hang")
#: Bytes that a case may take beside what the parent has mapped already.
MEMORY = 4 << 30


class Change(NamedTuple):
    """What was done to the input.

    Attributes:
        what: for people.
        intact: whether the input may be accepted with the undamaged one's result only.
    """

    what: str
    intact: bool


class Kind:
    """A kind of input; its good ones are made once, in ``folder / 'good_VARIANT'``.

    Attributes:
        name: of the kind.
        variants: names of the good inputs.
        variant: the one that is used now.
        seconds: of the processor that a case may take; thrice as many of the clock, since machines are busy.
        may_resolve: whether names of hosts may be looked up.
        ports: of servers that may be asked.
        also: folders besides the input's that may be read.
    """

    name = ""
    variants: tuple[str, ...] = ("",)
    seconds = 20
    may_resolve = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        quiet()
        self.variant = self.variants[0]
        self.ports: set[int] = set()
        self.also: list[Path] = []

    def lay(self, case: Path, rng: random.Random | None = None) -> Path:
        """Copy a good input, one that is drawn or ``self.variant``, to where it is used."""
        self.variant = self.variant if rng is None else rng.choice(self.variants)
        return Path(shutil.copytree(self.folder / f"good_{self.variant}", case / "a/b/input"))

    def change(self, case: Path, rng: random.Random) -> Change:
        """Lay a good input, and damage it."""
        raise NotImplementedError

    def use(self, folder: Path) -> Any:
        """Use an input as the package's users do; returns what came out, as JSON."""
        raise NotImplementedError

    def refuses(self, error: BaseException) -> bool:
        """Whether an error reaches the user as a sentence."""
        from synthcap_mm.cli import what_to_mend

        return what_to_mend(error) is not None or (isinstance(error, SystemExit) and isinstance(error.code, str))

    def names(self, error: BaseException) -> bool:
        """Whether a refusal says what is wrong."""
        return True

    def wrong(self, result: Any) -> str | None:
        """What is wrong with a result, whatever the input was; ``None``: nothing."""
        try:
            json.dumps(result, allow_nan=False)
        except ValueError:
            return "numbers that are not finite"
        return None


class Verdict(NamedTuple):
    outcome: str
    what: str
    why: str = ""


class Tally(NamedTuple):
    kind: str
    count: Counter[str]
    seconds: float


def table(tallies: list[Tally]) -> str:
    lines = [f"{'kind':<12}" + "".join(f"{name:>10}" for name in ("tried", *FINE, *FAULTS, "seconds"))]
    for tally in tallies:
        cells = [tally.count.total(), *(tally.count[name] for name in (*FINE, *FAULTS)), round(tally.seconds)]
        lines.append(f"{tally.kind:<12}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def run(kind: Kind, cases: range, seed: int, jobs: int = 2, keep: str | None = None, loud: bool = False) -> Tally:
    """Run cases of a kind.

    Args:
        kind: the kind.
        cases: their numbers.
        seed: decides with the number what a case is.
        jobs: cases at a time. Default 2.
        keep: folder for the inputs of faults.
        loud: show what the cases print, and all verdicts; keep all inputs. Default ``False``.
    """
    count, begun = Counter(), time.monotonic()
    good = _good_results(kind)
    todo, running = iter(cases), {}
    while True:
        while len(running) < jobs and (number := next(todo, None)) is not None:
            running[number] = _Child(kind, seed, number, good, loud)
        if not running:
            return Tally(kind.name, count, time.monotonic() - begun)
        for number, child in list(running.items()):
            if (verdict := child.ended()) is not None:
                del running[number]
                count[verdict.outcome] += 1
                if loud or verdict.outcome in FAULTS:
                    print(f"{kind.name} --seed {seed} --case {number}:", ": ".join(verdict), flush=True)
                    _keep(child.case, keep, f"{kind.name}-{seed}-{number}")
                shutil.rmtree(child.case, ignore_errors=True)
        time.sleep(0.002)


def _keep(case: Path, folder: str | None, name: str) -> None:
    if folder is not None:
        with contextlib.suppress(shutil.Error):  # of what is no file
            shutil.copytree(case, Path(folder) / name, symlinks=True, dirs_exist_ok=True)


def _good_results(kind: Kind) -> dict[str, Any]:
    """The undamaged inputs' results; also loads all modules that are needed, before anything is forked."""
    results, before = {}, os.getcwd()
    for variant in dict.fromkeys(kind.variants):
        kind.variant = variant
        case = Path(tempfile.mkdtemp(dir=kind.folder))
        plant_victims(case)
        os.chdir(case / "a/b/here")
        results[variant] = json.loads(json.dumps(kind.use(kind.lay(case))))
        os.chdir(before)
        shutil.rmtree(case)
    return results


class _Child:
    """A case in a process of its own."""

    def __init__(self, kind: Kind, seed: int, number: int, good: Any, loud: bool) -> None:
        self.number, self.case = number, kind.folder / f"case{number}"
        self.begun, self.seconds = time.monotonic(), 3 * kind.seconds
        shutil.rmtree(self.case, ignore_errors=True)
        plant_victims(self.case)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _in_child(kind, seed, number, self.case, good, loud)
            except BaseException:  # a fault of the fuzzing program's
                traceback.print_exc(file=sys.__stderr__)
                os._exit(99)
            os._exit(0)

    def ended(self) -> Verdict | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            if time.monotonic() - self.begun < self.seconds:
                return None
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return self._verdict("hang", f"more than {self.seconds} s")
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            slow = number == signal.SIGXCPU
            return self._verdict("hang" if slow else "crash", signal.Signals(number).name)
        return self._verdict(None, f"status {os.WEXITSTATUS(status)}")

    def _verdict(self, outcome: str | None, why: str) -> Verdict:
        if why == "status 99":
            raise RuntimeError(f"the fuzzing program failed in case {self.number}")
        report: dict[str, Any] = {}
        if (self.case / "report").exists():
            for line in (self.case / "report").read_text().splitlines():
                report = {**json.loads(line), **report}  # the first of each kind counts
        what = report.get("what", "?")
        if "executed" in report or (found := [*self.case.glob(f"{TOKEN}*"), *self.case.glob(f"a/b/here/{TOKEN}*")]):
            return Verdict("executed", what, report.get("executed") or f"wrote {found[0]}")
        if "outside" in report or (touched := victims_touched(self.case)):
            return Verdict("outside", what, report.get("outside") or touched)
        if outcome is None:
            outcome, why = report.get("ended", ("crash", why))
        return Verdict(outcome, what, why)


def _in_child(kind: Kind, seed: int, number: int, case: Path, good: Any, loud: bool) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    report = os.open(case / "report", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(**found: Any) -> None:
        os.write(report, (json.dumps(found) + "\n").encode())

    change = kind.change(case, random.Random(f"{kind.name}/{seed}/{number}"))
    note(what=change.what)
    if not loud:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(nothing, stream)
    temporary = case / "tmp"
    (temporary / "home").mkdir(parents=True)
    os.environ |= {"TMPDIR": str(temporary), "HOME": str(temporary / "home")}
    tempfile.tempdir = str(temporary)
    os.chdir(case / "a/b/here")
    _limit(kind.seconds)
    allowed = [case / "a/b/input", case / "a/b/here", temporary, *kind.also]
    sys.addaudithook(Watch(case, allowed, kind.ports, kind.may_resolve, note))
    try:
        result = json.loads(json.dumps(kind.use(case / "a/b/input")))
    except BaseException as error:
        if loud:
            traceback.print_exc()
        outcome = "traceback" if not kind.refuses(error) else "refused" if kind.names(error) else "unnamed"
        step = traceback.extract_tb(error.__traceback__)[-1]
        note(ended=(outcome, f"{_said(error)} ({step.filename}:{step.lineno})"))
        return
    if (wrong := kind.wrong(result)) is not None:
        note(ended=("damaged", wrong))
    elif result == good[kind.variant]:
        note(ended=("same", ""))
    else:
        note(ended=("damaged", _difference(good[kind.variant], result)) if change.intact else ("other", ""))


def _limit(seconds: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode()[:300]


def _difference(good: Any, result: Any) -> str:
    if isinstance(good, dict) and isinstance(result, dict):
        names = [name for name in {**good, **result} if good.get(name) != result.get(name)]
        return f"another {', '.join(names)[:200]}"
    return f"{str(good)[:80]} became {str(result)[:80]}"
