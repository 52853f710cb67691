"""Train the mini-world's detector: weights only.

Sees photos of scenes that no split uses (never a drawing), with the kind, the colour and the box of every object.
CPU only, one thread by default, ten minutes. Seeded throughout.

Example: ``python tools/misc/train_minidetector.py --out work_dirs/minidetector``
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from synthcap_mm.miniscenes.augmentation import each, relight, shift_and_sharpen
from synthcap_mm.miniscenes.detector import CELLS, MiniDetector, MiniScenesTagger
from synthcap_mm.miniscenes.measures import names_found
from synthcap_mm.miniscenes.painting import MiniScenesPainter, Where, annotated_photograph, photograph
from synthcap_mm.miniscenes.scenes import COLOURS, KINDS, Scene, scene_of
from synthcap_mm.miniscenes.sources import MiniScenesCaptions


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for weights.safetensors")
    parser.add_argument("--scenes", type=int, default=16000, help="photos to train on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over them (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="photos of a step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.02, help="AdamW's, of matrices (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--full-precision", action="store_true", help="no bfloat16")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, weights and order (default: %(default)s)")
    return parser.parse_args()


def targets(objects: list[list[Where]], shift: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """What the map should say.

    Args:
        objects: those of each photo.
        shift: pixels (of 64) by which all photos were moved, right and down.

    Returns:
        The centres' map ``(N, kinds, 16, 16)``, 1 at a centre and falling around it; for each object its photo,
        kind, colour and cell ``(M, 5)``; and log width, log height and place in the cell ``(M, 4)``.
    """
    heat = torch.zeros(len(objects), len(KINDS), CELLS, CELLS)
    kinds, cells = list(KINDS), torch.arange(CELLS) + 0.5
    labels, numbers = [], []
    for row, there in enumerate(objects):
        for kind, colour, (x1, y1, x2, y2) in there:
            x, y = ((x1 + x2) / 2 + shift[0] / 64) * CELLS, ((y1 + y2) / 2 + shift[1] / 64) * CELLS
            if not (0 <= x < CELLS and 0 <= y < CELLS):
                continue
            width, height = x2 - x1, y2 - y1
            # Narrower than the object: at half a box from the centre it is another object's place (assumed).
            spread_x, spread_y = (max(0.6, size * CELLS / 8) for size in (width, height))
            fall = torch.exp(
                -((cells[None] - int(x) - 0.5) ** 2) / (2 * spread_x**2)
                - (cells[:, None] - int(y) - 0.5) ** 2 / (2 * spread_y**2)
            )
            at = heat[row, kinds.index(kind)]
            torch.maximum(at, fall, out=at)
            labels.append((row, kinds.index(kind), COLOURS.index(colour), int(y), int(x)))
            numbers.append((math.log(max(width, 0.02)), math.log(max(height, 0.02)), x - int(x), y - int(y)))
    return heat, torch.tensor(labels), torch.tensor(numbers)


def losses(maps: Tensor, heat: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
    """CenterNet's focal loss of the centres, cross-entropy of the colours, L1 of boxes; sums over objects."""
    kinds, colours, boxes = maps.float().split((len(KINDS), len(COLOURS), 4), dim=1)
    is_centre = (heat == 1).float()
    found = kinds.sigmoid()
    centre = -is_centre * (1 - found) ** 2 * F.logsigmoid(kinds)
    rest = -(1 - is_centre) * (1 - heat) ** 4 * found**2 * F.logsigmoid(-kinds)
    row, _, colour, y, x = labels.T
    colour_loss = F.cross_entropy(colours[row, :, y, x], colour)
    box_loss = (boxes[row, :, y, x] - numbers).abs().sum(1).mean()
    return (centre.sum() + rest.sum()) / len(labels) + 0.5 * colour_loss + 0.3 * box_loss


def augment(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, tuple[int, int]]:
    """Other places, sharpness, paleness and light.

    Returns:
        The pixels, and the shift to the right and down.
    """
    pixels, shift = shift_and_sharpen(pixels, generator)
    pale = each(pixels, -1.0, 0.4, generator).clamp(0, None)
    return relight(pixels * (1 - pale) + pale, generator), shift


def train(args: argparse.Namespace, model: MiniDetector, scenes: list[Scene]) -> None:
    """Render the photos once and train on them."""
    began = time.time()
    photos = np.empty((len(scenes), 64, 64, 3), np.uint8)
    objects = []
    for i, scene in enumerate(scenes):
        image, there = annotated_photograph(scene)
        photos[i] = np.asarray(image)
        objects.append(there)
    print_log(f"{len(scenes)} photos rendered, {time.time() - began:.0f} s", logger="current")
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": args.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=args.lr,
    )
    model.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(args.seed)
    per_epoch = len(scenes) // args.batch
    total, step = args.epochs * per_epoch, 0
    for epoch in range(args.epochs):
        model.train()
        order = torch.randperm(len(scenes), generator=generator).numpy()
        seen = []
        for start in range(0, per_epoch * args.batch, args.batch):
            rows = order[start : start + args.batch]
            rate = args.lr * min(1.0, (step + 1) / (0.05 * total)) * (0.5 + 0.5 * math.cos(math.pi * step / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            pixels = torch.from_numpy(photos[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
            pixels, shift = augment(pixels, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=not args.full_precision):
                maps = model(pixels.contiguous(memory_format=torch.channels_last))
            loss = losses(maps, *targets([objects[r] for r in rows], shift))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            seen.append(float(loss.detach()))
            step += 1
        print_log(
            f"epoch {epoch + 1}/{args.epochs}: loss {np.mean(seen):.3f}, {time.time() - began:.0f} s", logger="current"
        )


def main() -> None:
    """Write the weights, and say how good they are on validation photos and on drawings."""
    args = parse_args()
    logging.getLogger().setLevel(logging.INFO)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    model = MiniDetector()
    count = sum(p.numel() for p in model.parameters())
    print_log(f"{count:,} parameters", logger="current")
    train(args, model, [scene_of("clip", args.seed, i) for i in range(args.scenes)])
    from safetensors.torch import save_file

    halves = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in halves.items()}, str(args.out / "weights.safetensors"))
    tagger = MiniScenesTagger(str(args.out / "weights.safetensors"))
    scenes = [scene_of("val", args.seed, i) for i in range(300)]
    photos = [photograph(s) for s in scenes]
    print_log(f"validation photos: {names_found(tagger, photos, scenes)}", logger="current")
    captions, painter = MiniScenesCaptions(600, args.seed).read(), MiniScenesPainter()
    drawn = [painter.plan(c.text, i)[1] for i, c in enumerate(captions)]
    images = painter.generate([c.text for c in captions], list(range(len(captions))))
    print_log(f"drawings: {names_found(tagger, images, drawn)}", logger="current")
    print_log(f"saved to {args.out}", logger="current")


if __name__ == "__main__":
    main()
