"""Curation of real pairs: real Stable Diffusion images with their prompts, and optionally the retrieval store.

    python -m research.real.curation DATA_ROOT [--store work_dirs/real/pairs]

Each of the 200 prompts has two images, of SD v1.4 and v1.5; three are black and flagged. The data root's dual encoder
makes the features. Each step of curation is run alone; then once more after a quarter of the prompts got the images
of other prompts. For which prompt an image was really drawn is known, whatever the encoder thinks: the benchmark
counts the right pairs before and after. Stores are made in a temporary folder; ``--store`` is copied there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from PIL import Image

import research.real.dual_encoder_backbone  # noqa: F401 - registers the encoder
from synthcap_mm.datasets.captions import Caption
from synthcap_mm.models.generators.base import BaseGenerator
from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.store import Store
from synthcap_mm.synthesis.curation import Curation, report_table
from synthcap_mm.synthesis.synthesis import Synthesis

STEPS = {
    "clip_score": [{"type": "clip_score", "keep": 0.9}],
    "reassign": [{"type": "reassign"}],
    "merge_duplicates": [{"type": "merge_duplicates", "min_similarity": 0.95}],
}


def entries(root: Path) -> list[dict]:
    lines = (root / "sd_drawbench" / "metadata.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@DATASETS.register_module()
class Prompts:
    """The prompts, each once for every image; a prompt is a group."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def read(self) -> list[Caption]:
        return [Caption(e["file_name"], e["prompt"], e["prompt"]) for e in entries(self.root)]

    def describe(self) -> str:
        return "prompts of ready-made images"


@MODELS.register_module()
class ReadyMade(BaseGenerator):
    """The images in the order of the prompts; ``wrong`` maps an image's number to the one that is shown for it."""

    def __init__(self, folder: str, wrong: dict[int, int] | None = None) -> None:
        self.folder, self.wrong, self.drawn = Path(folder), wrong or {}, 0
        self.entries = entries(self.folder.parent)

    def generate(self, captions: list[str], seeds: list[int]) -> list[Image.Image]:
        images = []
        for caption in captions:
            assert caption == self.entries[self.drawn]["prompt"]
            file = self.entries[self.wrong.get(self.drawn, self.drawn)]["file_name"]
            images.append(Image.open(self.folder / file).convert("RGB"))
            self.drawn += 1
        return images


def make(store: Path, root: Path, wrong: dict[int, int] | None = None) -> None:
    Synthesis(
        store=str(store),
        captions={"type": "Prompts", "root": str(root)},
        encoder={"type": "DualEncoderBackbone", "root": str(root / "dual_encoder")},
        generator={"type": "ReadyMade", "folder": str(root / "sd_drawbench"), "wrong": wrong},
        tokenizer=None,
        holdout=0,
        device="cpu",
    ).run()


def show(store: Path, shown: list[str] | None = None) -> None:
    """Run each step; ``shown`` has the prompt that each image was really drawn for."""
    for name, steps in STEPS.items():
        report = Curation(str(store), steps, name=name, device="cpu").run()
        print(report_table(report), flush=True)
        if shown is None:
            continue
        opened = Store.open(store)
        usable = ~opened.images.is_set("flags")
        told = []
        for table in ("default", name):
            pairs = opened.pairs(table)
            some = np.flatnonzero(usable[pairs.numbers("image")])
            captions, images = pairs.numbers("caption")[some], pairs.numbers("image")[some]
            right = [opened.captions.value("text", int(c)) == shown[i] for c, i in zip(captions, images)]
            told.append(f"{sum(right)} of {len(right)} ({100 * np.mean(right):.1f} %)")
        print(f"  pairs whose image was drawn for that prompt: {told[0]} before, {told[1]} after", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path, help="folder of real data")
    parser.add_argument("--store", type=Path, help="retrieval store of research/real/make_stores.py")
    args = parser.parse_args()
    torch.set_num_threads(1)
    init_default_scope("synthcap_mm")
    MMLogger.get_instance("curation", logger_name="curation", log_level="WARNING")
    with tempfile.TemporaryDirectory() as folder:
        print("--- Stable Diffusion images with their prompts")
        prompts = [e["prompt"] for e in entries(args.data_root)]
        make(Path(folder, "sd"), args.data_root)
        show(Path(folder, "sd"), prompts)
        print("--- a quarter of the prompts with the images of others")
        some = np.random.default_rng(0).permutation(200)[:50]
        wrong = {2 * int(a) + j: 2 * int(b) + j for a, b in zip(some, np.roll(some, 1)) for j in (0, 1)}
        make(Path(folder, "wrong"), args.data_root, wrong)
        show(Path(folder, "wrong"), [prompts[wrong.get(i, i)] for i in range(len(prompts))])
        if args.store:
            print("--- the retrieval store")
            shutil.copytree(args.store, Path(folder, "retrieval"))
            show(Path(folder, "retrieval"))


if __name__ == "__main__":
    main()
