"""SynTIC and its peers on real photos: python benchmarks/real/run.py DATA_ROOT.

Captions of COCO val2017 and Flickr8k train every method; pseudo images are
retrieved from unlabelled photos and Stable Diffusion images; the COCO and
Flickr8k photos that no part has seen are captioned. Beside the methods stands
the floor: the nearest training caption. Finished runs are skipped, so the
same command goes on where it was stopped. Results: results.json, results.csv
and results.md in the work folder.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from methods import METHODS, VARIANTS, Method  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.logging import MMLogger, print_log  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.utils import import_modules_from_strings  # noqa: E402
from prepare import prepare  # noqa: E402
from scoring import (  # noqa: E402
    POOLED,
    SHOWN,
    compare,
    markdown,
    nearest_captions,
    prefix_cosines,
    references_of,
    score_sets,
    ten_photos,
)

from synthcap_mm.apis.workflow import encode_images, synthesize, test, train  # noqa: E402
from synthcap_mm.registry import MODELS  # noqa: E402
from synthcap_mm.stores import Store  # noqa: E402
from synthcap_mm.stores.shards import write_atomically, write_json  # noqa: E402

FLOOR = "nearest_caption"
#: What a trial changes, to show in a minute that everything runs; its figures mean nothing.
QUICK = {
    "synthesis.holdout": 0.1,
    "synthesis.tokenizer.vocab_size": 600,
    "train_cfg.max_epochs": 1,
    "param_scheduler": [{"type": "LinearLR", "start_factor": 0.5, "by_epoch": False, "begin": 0, "end": 2}],
    "model.head.layers": 1,
    "model.head.generation": {"num_beams": 1},
    "train_dataloader.batch_size": 50,
}
QUICK_CAPTIONS, QUICK_POOL, QUICK_PHOTOS = 200, 20, 6


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path, help="folder of real data (see its README)")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/real"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default: %(default)s)")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=[*METHODS, *VARIANTS],
        metavar="NAME",
        help=f"what to train (default: {' '.join(METHODS)}); also known: {' '.join(VARIANTS)}",
    )
    parser.add_argument(
        "--variant-seeds", type=int, default=1, help="runs of what is not a main method (default: %(default)s)"
    )
    parser.add_argument(
        "--without-tags", action="store_true", help="no detector: where mmdet is not installed; SynTIC has no tags then"
    )
    parser.add_argument("--stores-only", action="store_true", help="make the stores, and train nothing")
    parser.add_argument("--quick", action="store_true", help="a trial on a few captions and photos, in its own folder")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE", help="settings for every run"
    )
    return parser.parse_args(argv)


class Benchmark:
    """The stores, the runs and the results below one work folder.

    Args:
        args: the command line's.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.data_root = args.data_root.resolve()
        self.work = (args.work_dir / "quick" if args.quick else args.work_dir).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        # The configs read these two; see configs/_base_real.py.
        os.environ["SYNTHCAP_REAL_DATA"] = str(self.data_root)
        os.environ["SYNTHCAP_REAL_WORK"] = str(self.work)
        self.logger = MMLogger.get_instance("real", logger_name="real", log_file=str(self.work / "run.log"))
        base = self.config(METHODS["synthcap"])
        self.pairs = base.store
        self.photos = {Path(entry["store"]).name: entry["store"] for entry in base.photo_stores}

    # ---- configs
    def config(self, method: Method) -> Config:
        """The method's config with its changes, those of a trial and those of the command line."""
        cfg = Config.fromfile(HERE / "configs" / f"{method.config}.py", import_custom_modules=False)
        options = dict(method.options)
        if self.args.without_tags:
            options["synthesis.tag_provider"] = None
        if self.args.quick:
            options.update(QUICK)
            options.update(self._quick_photos(cfg))
        cfg.merge_from_dict({**options, **self.args.cfg_options})
        import_modules_from_strings(**cfg.custom_imports)
        init_default_scope(cfg.default_scope)
        cfg.launcher, cfg.config_name = "none", method.config
        return cfg

    def _quick_photos(self, cfg: Config) -> dict[str, Any]:
        """Fewer photos, in the pool as in the evaluation sets."""
        splits = json.loads((self.data_root / "flickr8k/splits.json").read_text(encoding="utf-8"))
        coco = json.loads((self.data_root / "coco_mini/annotations/captions_val2017.json").read_text(encoding="utf-8"))
        pool = cfg.synthesis.generator.pool.sources[0]
        return {
            "synthesis.generator.pool.sources": [{**pool, "keys": splits["unlabelled"][:QUICK_POOL], "split": None}],
            "photo_stores.0.photos.keys": [image["file_name"] for image in coco["images"][:QUICK_PHOTOS]],
            "photo_stores.1.photos.keys": splits["dev"][:QUICK_PHOTOS],
            "photo_stores.1.photos.split": None,
        }

    # ---- stages
    def make_stores(self) -> None:
        """Captions, pairs and evaluation photos; what is there is kept."""
        cfg = self.config(METHODS["synthcap"])
        if not (self.work / "captions.json").is_file():
            prepare(self.data_root, self.work, QUICK_CAPTIONS if self.args.quick else None)
        prepared = json.loads((self.work / "prepared.json").read_text(encoding="utf-8"))
        print_log(f"captions: {prepared}", logger=self.logger)
        # Photos first: a detector that is missing is found out in seconds, not after the text.
        encode_images(cfg, missing_only=True)
        synthesize(cfg)
        texts = self.work / "reference_features.pt"
        if not texts.is_file():
            encoder = MODELS.build(cfg.synthesis.encoder)
            feats = {
                name: {key: encoder.encode_text(refs) for key, refs in references_of(store).items()}
                for name, store in self.photos.items()
            }
            with write_atomically(texts) as file:
                torch.save(feats, file)

    def run(self, name: str, method: Method, seed: int) -> dict[str, Any]:
        """Train and test one method with one seed; a finished run is only read."""
        cfg = self.config(method)
        cfg.randomness = {"seed": seed}
        folder = self.work / "runs" / name / f"seed{seed}"
        identity = self._identity(cfg)
        done = folder / "result.json"
        if done.is_file():
            result = json.loads(done.read_text(encoding="utf-8"))
            if result["identity"] == identity:
                return result
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        cfg.work_dir = str(folder)
        cfg.experiment_name = f"{name}-seed{seed}-{time.time_ns()}"
        started = time.time()
        train(cfg)
        seconds = time.time() - started
        checkpoint = self._best(folder)
        captions = {}
        for photos, store in self.photos.items():
            cfg = self.config(method)
            cfg.randomness = {"seed": seed}
            cfg.work_dir = str(folder)
            cfg.experiment_name = f"{name}-seed{seed}-{photos}-{time.time_ns()}"
            cfg.test_dataloader.dataset.store = store
            cfg.test_evaluator.outfile_prefix = str(folder / photos)
            test(cfg, str(checkpoint))
            written = json.loads((folder / f"{photos}.json").read_text(encoding="utf-8"))["images"]
            captions[photos] = {key: entry["hypothesis"] for key, entry in written.items()}
        result = {
            "identity": identity,
            "seed": seed,
            "train_seconds": round(seconds),
            "heldout_by_epoch": self._heldout(folder),
            "checkpoint": checkpoint.name,
            "captions": captions,
            "scores": score_sets(captions, self.references()),
            "prefix_cosine": self._prefix(cfg, checkpoint),
        }
        result["heldout_CIDEr"] = max(result["heldout_by_epoch"], default=None)
        write_json(done, result)
        for file in folder.glob("epoch_*.pth"):
            file.unlink()  # the best one is enough
        return result

    def _identity(self, cfg: Config) -> str:
        """Hash of what decides a run: its settings and the store's shards, not where things lie."""
        settings = {k: cfg[k] for k in ("model", "train_dataloader", "val_dataloader", "train_cfg", "optim_wrapper",
                                        "param_scheduler", "randomness")}  # fmt: skip
        shards = Store.open(self.pairs).manifest["tables"]
        text = json.dumps([settings, shards], sort_keys=True, default=str).replace(str(self.work), "WORK")
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def _best(folder: Path) -> Path:
        best = sorted(folder.glob("best_CIDEr_*.pth"))
        if len(best) != 1:
            raise RuntimeError(f"{folder} has {len(best)} best checkpoints, one was expected")
        return best[0]

    @staticmethod
    def _heldout(folder: Path) -> list[float]:
        scores = []
        for file in sorted(folder.glob("*/vis_data/scalars.json")):
            for line in file.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if "CIDEr" in entry:
                        scores.append(round(entry["CIDEr"], 3))
            break  # the first folder is the training's, later ones are the tests'
        return scores

    def _prefix(self, cfg: Config, checkpoint: Path) -> dict[str, float]:
        model = MODELS.build(cfg.model)
        state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
        model.load_state_dict(state)
        texts = {n: {k: F.normalize(v.float(), dim=1) for k, v in t.items()} for n, t in self._texts().items()}
        return prefix_cosines(model, self.photos, texts, cfg.train_dataloader.dataset, cfg.val_dataloader.dataset)

    def _texts(self) -> dict[str, dict[str, torch.Tensor]]:
        return torch.load(self.work / "reference_features.pt", weights_only=True)

    def references(self) -> dict[str, dict[str, list[str]]]:
        """Set → photo → captions of people."""
        return {name: references_of(store) for name, store in self.photos.items()}

    # ---- all
    def main(self) -> dict[str, Any]:
        """Everything; returns what ``results.json`` holds."""
        self.make_stores()
        known = {**METHODS, **VARIANTS}
        jobs = [
            (name, seed)
            for seed in range(max(self.args.seeds, self.args.variant_seeds))
            for name in self.args.methods
            if seed < (self.args.seeds if name in METHODS else self.args.variant_seeds)
        ]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in self.args.methods}
        spent: list[float] = []
        for number, (name, seed) in enumerate(jobs, 1):
            started = time.time()
            result = self.run(name, known[name], seed)
            runs[name].append(result)
            took = time.time() - started
            if took > 5:  # else it was there already
                spent.append(took)
            left = (len(jobs) - number) * (sum(spent) / len(spent) if spent else 0)
            scores = ", ".join(f"{s} {v['metrics']['CIDEr']:.1f}" for s, v in result["scores"].items())
            print_log(
                f"[{number}/{len(jobs)}] {name} seed {seed}: CIDEr {scores}; held-out {result['heldout_by_epoch']}; "
                f"{took / 60:.1f} min, about {left / 60:.0f} min left",
                logger=self.logger,
            )
            self.report(runs)
        return self.report(runs)

    def report(self, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """Write the results of the runs so far."""
        known = {**METHODS, **VARIANTS}
        floor = {name: nearest_captions(self.pairs, store) for name, store in self.photos.items()}
        methods = {name: {"title": known[name].title, "runs": found} for name, found in runs.items() if found}
        methods[FLOOR] = {
            "title": "nearest caption",
            "runs": [{"captions": floor, "scores": score_sets(floor, self.references())}],
        }
        comparisons = {}
        if "synthcap" in methods:
            own = [run["scores"] for run in methods["synthcap"]["runs"]]
            for name, entry in methods.items():
                if name != "synthcap":
                    other = [run["scores"] for run in entry["runs"]]
                    comparisons[f"SynTIC − {entry['title']}"] = compare(own[: len(other)] if name in VARIANTS else own,
                                                                       other)  # fmt: skip
        results = {
            "prepared": json.loads((self.work / "prepared.json").read_text(encoding="utf-8")),
            "sets": {**{name: len(refs) for name, refs in self.references().items()},
                     POOLED: sum(map(len, self.references().values()))},
            "methods": methods,
            "comparisons": comparisons,
        }  # fmt: skip
        write_json(self.work / "results.json", results)
        with write_atomically(self.work / "results.csv") as file:
            text = io.StringIO()
            writer = csv.writer(text)
            writer.writerow(["method", "seed", "set", "photos", *SHOWN])
            for name, entry in methods.items():
                for run in entry["runs"]:
                    for where, found in run["scores"].items():
                        values = [f"{found['metrics'][m]:.3f}" for m in SHOWN]
                        writer.writerow([name, run.get("seed", ""), where, results["sets"][where], *values])
            file.write(text.getvalue().encode())
        with write_atomically(self.work / "results.md") as file:
            file.write(f"{markdown(results)}\n{ten_photos(results, self.references())}".encode())
        return results


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run."""
    args = parse_args(argv)
    benchmark = Benchmark(args)
    if args.stores_only:
        benchmark.make_stores()
        return {}
    results = benchmark.main()
    print_log(f"results: {benchmark.work}\n{markdown(results)}", logger=benchmark.logger)
    return results


if __name__ == "__main__":
    main()
