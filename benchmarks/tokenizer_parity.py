"""Our tokenizer against the original, token by token: the rate of captions that differ.

Needs Java and the jar that pycocoevalcap ships. The captions are taken as they
stand in the files; line breaks become blanks first, as in the COCO evaluation.

    python benchmarks/tokenizer_parity.py FOLDER_OR_FILE... [--hard] [--characters] [--random 20000] [--show 20]

``--hard`` adds the hand-written captions of tests/test_evaluation/hard_captions.json, ``--characters`` each character of
the basic plane within a word, beside one and alone, ``--random`` strings of pieces of the hard ones. Each of these is
followed by a plain caption.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from synthcap_mm.datasets.caption_formats import read_captions
from synthcap_mm.evaluation.tokenizer import PUNCTUATIONS, ptb_tokenize

HARD = Path(__file__).resolve().parents[1] / "tests" / "test_evaluation" / "hard_captions.json"
#: What follows a caption decides the end of a few ("plan B."); this is like most captions.
NEXT = "A dog runs on the beach."


# Line breaks of one kind or another, for which the original begins another caption; and halves of pairs.
_NO_CHARACTERS = {*map(chr, (0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029)), *map(chr, range(0xD800, 0xE000))}


class JavaAbsentError(RuntimeError):
    """There is no Java, or no jar."""


def java_tokenize(captions: Sequence[str]) -> list[str]:
    """Tokens of each caption by the original, joined by blanks, without punctuation; one Java run for all.

    Raises:
        JavaAbsentError: if there is no Java, or no jar.
        RuntimeError: if Java's lines do not fit ours (a caption with a carriage return does that).
    """
    package = Path(importlib.util.find_spec("pycocoevalcap").submodule_search_locations[0])
    jar = package / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    if shutil.which("java") is None or not jar.is_file():
        raise JavaAbsentError(f"the original tokenizer needs java on the PATH, and {jar}")
    if not captions:
        return []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "captions.txt")
        with file.open("w", encoding="utf-8", newline="") as lines:
            lines.write("\n".join(caption.replace("\n", " ") for caption in captions) + "\n")
        # Java 17 reads and writes in the locale's encoding unless told; with LANG=C it would lose all but ASCII.
        command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        done = subprocess.run([*command, "-preserveLines", "-lowerCase", str(file)], capture_output=True, check=True)
    found = done.stdout.decode("utf-8").split("\n")[:-1]
    if len(found) != len(captions):
        raise RuntimeError(f"Java gave {len(found)} lines for {len(captions)} captions")
    return [" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATIONS) for line in found]


def differing(captions: Sequence[str], theirs: Sequence[str]) -> list[tuple[str, str, str]]:
    """Captions whose tokens differ: ``(caption, ours, the original's)``."""
    ours = [" ".join(ptb_tokenize(caption)) for caption in captions]
    return [found for found in zip(captions, ours, theirs) if found[1] != found[2]]


def characters() -> list[str]:
    """Four captions with each character of the basic plane: within a word, alone, before a word, behind one."""
    chosen = [chr(code) for code in range(1, 0x10000) if chr(code) not in _NO_CHARACTERS]
    forms = ("dog{}cat runs", "dog {} cat runs", "dog {}cat runs", "dog{} runs")
    return [form.format(character) if character not in "{}" else form.replace("{}", character)
            for character in chosen for form in forms]  # fmt: skip


def random_strings(count: int, seed: int = 0) -> list[str]:
    """Strings of one to seven words of the hand-written captions, joined with and without blanks."""
    generator = random.Random(seed)
    words = sorted({word for caption in json.loads(HARD.read_text("utf-8")) for word in caption.split()})
    strings = []
    for _ in range(count):
        pieces = [
            generator.choice(words) + generator.choice(("", " ", " ", " ")) for _ in range(generator.randint(1, 7))
        ]
        strings.append(f"A {''.join(pieces).strip()} dog")
    return strings


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="files of captions, or folders of them")
    parser.add_argument("--hard", action="store_true")
    parser.add_argument("--characters", action="store_true")
    parser.add_argument("--random", type=int, default=0, metavar="N")
    parser.add_argument("--show", type=int, default=20, help="differences shown (default: 20)")
    args = parser.parse_args()
    files = [file for path in args.paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    captions = [raw.text or "" for file in files for raw in read_captions(file, "auto")[1]]
    sets = {"captions of " + ", ".join(file.name for file in files): (captions, java_tokenize(captions))}
    hard = list(json.loads(HARD.read_text("utf-8"))) if args.hard else []
    every = characters() if args.characters else []
    for name, texts in {
        "hand-written captions": hard,
        "captions with each character": every,
        "random strings": random_strings(args.random),
    }.items():
        sets[name] = (texts, java_tokenize([line for text in texts for line in (text, NEXT)])[::2])
    for name, (texts, theirs) in sets.items():
        if not texts:
            continue
        bad = differing(texts, theirs)
        print(f"{len(bad)} of {len(texts)} {name} differ: {10000 * len(bad) / len(texts):.2f} in 10,000")
        for caption, ours, original in bad[: args.show]:
            print(f"  {caption!r}\n    ours     {ours!r}\n    original {original!r}")


if __name__ == "__main__":
    try:
        main()
    except JavaAbsentError as error:
        sys.exit(str(error))
