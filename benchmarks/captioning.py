"""Captioning a folder: images per second, where the time goes, the first caption, and memory.

Photos of the mini-world, as JPEG files; its encoder and detector. The decoder is the
flagship's (4 layers of width 768, CLIP's 49,408 tokens, 5 beams; random weights, so
that every caption is made 14 tokens long, COCO's mean), or, with --export, a
trained captioner's.

    python benchmarks/captioning.py [--export FOLDER] [--photos 64] [--memory-photos 10000]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from synthcap_mm.inference.generation import generation_options
from synthcap_mm.inference.inferencer import CaptionInferencer
from synthcap_mm.miniscenes.sources import MiniScenesPhotos
from synthcap_mm.registry import MODELS
from synthcap_mm.synthesis.synthesis import Synthesis

#: Libraries that captioning of photos has no use for.
NEEDLESS = ("diffusers", "mmdet", "mmcv", "pycocoevalcap", "pandas", "matplotlib", "sklearn", "gradio", "faiss")
PARTS = {"encoder": {"type": "MiniCLIP"}, "tag_provider": {"type": "MiniScenesTagger"}}


def flagship(folder: Path) -> CaptionInferencer:
    """A captioner with a decoder of the flagship's size and random weights, on 500 captions of the mini-world."""
    init_default_scope("synthcap_mm")
    store = str(folder / "pairs")
    captions = {"type": "MiniScenesCaptions", "num": 500}
    Synthesis(store=store, captions=captions, tokenizer={"kind": "clip"}, encoder=PARTS["encoder"]).run()
    model = {
        "type": "SynthCaptioner",
        "store": store,
        "data_preprocessor": {"type": "CaptionPreprocessor", "prompt": {"max_tags": 4}, "max_length": 40},
        "necks": {
            "memory": {"type": "TextMemoryProjection"},
            "projector": {"type": "PrefixProjector", "prefix_length": 10},
        },
        "head": {"type": "GPT2CaptionHead", "width": 768, "layers": 4, "heads": 4},
    }
    torch.manual_seed(0)
    built = MODELS.build({**model})
    # An untrained decoder repeats its input, since both ends share their embeddings; this one has opinions.
    built.head.decoder.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn(49408, 768))
    torch.save({"state_dict": built.state_dict()}, folder / "checkpoint.pth")
    captioner = CaptionInferencer(Config({"model": model, "synthesis": PARTS}), folder / "checkpoint.pth")
    captioner.model.head.decoder.lm_head.weight = built.head.decoder.lm_head.weight  # loading ties them again
    return captioner


def best_of(repeats: int, jobs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Least seconds of each job, taken in turns, so that a busy moment hits all alike."""
    best: dict[str, float] = {}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            best[name] = min(best.get(name, float("inf")), time.perf_counter() - start)
    return best


def rates(captioner: CaptionInferencer, files: list[str], repeats: int, options: dict[str, Any]) -> None:
    """Images per second by batch size."""
    few = files[: max(8, len(files) // 8)]

    def run(paths: list[str], batch: int, **more: Any) -> Callable[[], list]:
        return lambda: list(captioner.stream(paths, batch, **options, **more))

    jobs = {
        "one at a time, no cache": (few, run(few, 1, use_cache=False)),
        "batch 1": (few, run(few, 1)),
        "batch 8": (files, run(files, 8)),
        "batch 32": (files, run(files, 32)),
    }
    best = best_of(repeats, {name: job for name, (_, job) in jobs.items()})
    per_image = {name: best[name] / len(paths) for name, (paths, _) in jobs.items()}
    print("\ncaptioning a folder            images/s   times one at a time without cache")
    for name, seconds in per_image.items():
        print(f"  {name:<27}{1 / seconds:9.2f}   {per_image['one at a time, no cache'] / seconds:6.2f}")


def against_transformers(captioner: CaptionInferencer, files: list[str], repeats: int, options: dict[str, Any]) -> None:
    """The head's ``generate`` against transformers' own on the same batch of prefixes and prompts."""
    model, head = captioner.model, captioner.model.head
    batch = next(iter(captioner.preprocess(files[:32], 32)))
    data = model.data_preprocessor([result.sample for result in batch])
    with torch.no_grad():
        prefix = model.run_necks(data["prefix"], "predict")[0].feats
    ids, lengths = data["input_ids"], data["lengths"]
    settings = generation_options(captioner.model, **options)
    # What anybody would write: embeddings, padded on the left, and a mask.
    soft, longest = prefix.shape[1], int(lengths.max())
    embeds = torch.zeros(len(ids), soft + longest, prefix.shape[2])
    mask = torch.zeros(len(ids), soft + longest, dtype=torch.long)
    with torch.no_grad():
        for i, n in enumerate(lengths.tolist()):
            row = torch.cat([prefix[i], head.decoder.get_input_embeddings()(ids[i, :n])])
            embeds[i, -len(row) :], mask[i, -len(row) :] = row, 1
    written: dict[str, Any] = {}

    def plain() -> None:
        with torch.no_grad():
            written["transformers"] = head.decoder.generate(
                inputs_embeds=embeds, attention_mask=mask, do_sample=False, bos_token_id=head.bos_id,
                eos_token_id=head.eos_id, pad_token_id=head.pad_id, return_dict_in_generate=True, output_scores=True,
                **settings,
            ).sequences.tolist()  # fmt: skip

    def ours() -> None:
        written["ours"] = head.generate(prefix, ids, lengths, **settings)["ids"][:, 0].tolist()

    best = best_of(repeats, {"transformers' generate": plain, "the head's generate": ours})
    eos, pad = head.eos_id, head.pad_id
    cut = {
        k: [[t for t in (r[: r.index(eos)] if eos in r else r) if t != pad] for r in rows]
        for k, rows in written.items()
    }
    same = sum(a == b for a, b in zip(cut["ours"], cut["transformers"]))
    print(f"\ntext alone, batch {len(ids)}             images/s")
    for name, seconds in best.items():
        print(f"  {name:<27}{len(ids) / seconds:9.2f}")
    ratio = best["transformers' generate"] / best["the head's generate"]
    print(f"  ratio {ratio:.2f}; {same} of {len(ids)} captions are the same")


def stages(captioner: CaptionInferencer, files: list[str], repeats: int, options: dict[str, Any]) -> None:
    """Each stage alone, batch 32."""
    from synthcap_mm.inference.inputs import iter_inputs

    items = list(iter_inputs(files[:32]))
    pictures = [captioner.pipeline(item) for item in items]
    reader = captioner.reader
    results = next(iter(captioner.preprocess(files[:32], 32)))
    with torch.no_grad():
        feats = reader.encoder.encode_pil(pictures)
        best = best_of(
            repeats,
            {
                "decode": lambda: [captioner.pipeline(item) for item in items],
                "encode": lambda: reader.encoder.encode_pil(pictures),
                "tags": lambda: reader.tags(pictures, feats),
                "text": lambda: captioner.forward(results, **options),
            },
        )
    total = sum(best.values())
    print("\nwhere the time goes     ms an image    share")
    for name, seconds in best.items():
        print(f"  {name:<20}{1e3 * seconds / len(items):12.2f}   {seconds / total:6.1%}")


FIRST = """
import sys, time
start = time.perf_counter()
from synthcap_mm.inference.inferencer import CaptionInferencer
imported = time.perf_counter()
captioner = CaptionInferencer.from_pretrained(sys.argv[1])
loaded = time.perf_counter()
(found,) = captioner(sys.argv[2])["predictions"]
done = time.perf_counter()
import json
needless = [name for name in json.loads(sys.argv[3]) if name in sys.modules]
print(json.dumps([imported - start, loaded - imported, done - loaded, needless, found["caption"]]))
"""


def first_caption(export: str, file: str) -> None:
    """Seconds from a start of Python to the first caption of an exported captioner, in a process of its own."""
    runs = []
    for _ in range(3):
        command = [sys.executable, "-c", FIRST, export, file, json.dumps(NEEDLESS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    imported, loaded, first, needless, caption = min(runs, key=lambda run: sum(run[:3]))
    print(f"\nfirst caption ({caption!r}), the best of 3 starts")
    print(f"  import {imported:.2f} s, load {loaded:.2f} s, caption (encoder and tags are built) {first:.2f} s")
    print(f"  imported without need: {', '.join(needless) or 'nothing'} (of {', '.join(NEEDLESS)})")


def resident() -> float:
    """MB that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def memory(captioner: CaptionInferencer, files: list[str], count: int) -> None:
    """Resident memory while many images are captioned."""
    paths = (files[i % len(files)] for i in range(count))
    marks = []
    for seen, _ in enumerate(captioner.stream(paths, 32, num_beams=1, max_length=8), 1):
        if seen % max(1, count // 10) == 0:
            marks.append(resident())
    print(f"\nmemory over {count} images, MB: " + " ".join(f"{mark:.0f}" for mark in marks))
    print(f"  from the second tenth to the last: {marks[-1] - marks[1]:+.1f} MB")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", help="folder of tools/export.py: a trained captioner, and its first caption")
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--size", type=int, default=256, help="side of a photo in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-photos", type=int, default=10_000, help="0: memory is not measured")
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} thread(s) of torch, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "photos").mkdir()
        photos = MiniScenesPhotos("test", args.photos, size=args.size)
        files = []
        for i in range(args.photos):
            files.append(str(folder / "photos" / f"{i:04d}.jpg"))
            photos.load(i).save(files[-1], quality=90)
        options: dict[str, Any] = {} if args.export else {"max_length": 14, "min_length": 14}
        captioner = CaptionInferencer.from_pretrained(args.export) if args.export else flagship(folder)
        list(captioner.stream(files[:2], 2, **options))  # everything is built
        rates(captioner, files, args.repeats, options)
        against_transformers(captioner, files, args.repeats, options)
        stages(captioner, files, args.repeats, options)
        if args.export:
            first_caption(args.export, files[0])
        if args.memory_photos:
            memory(captioner, files, args.memory_photos)


if __name__ == "__main__":
    main()
