"""Train the mini-CLIP of the mini-world: config, tokenizer and weights.

Sees photos of scenes that no split uses (never a drawing) and their captions.
CPU only, one thread by default, six minutes. Half of the batches hold scenes of one place: told apart there, the
objects must be seen, not the background. It could be trained longer: retrieval is to be like CLIP's on real photos, not
perfect. Seeded throughout.

Example: ``python tools/misc/train_miniclip.py --out work_dirs/miniclip``
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import logging
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from synthcap_mm.miniscenes import MINICLIP_CONTEXT
from synthcap_mm.miniscenes.augmentation import relight, shift_and_sharpen
from synthcap_mm.miniscenes.language import WEB, describe
from synthcap_mm.miniscenes.measures import (
    build_miniclip,
    image_features,
    miniclip_tokenizer,
    recall_at_1,
    text_features,
    to_pixels,
)
from synthcap_mm.miniscenes.painting import photograph
from synthcap_mm.miniscenes.scenes import PLACES, Scene, scene_of, scene_rng

MAX_TOKENS = 2000


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for config.json, bpe.txt.gz, weights.safetensors"
    )
    parser.add_argument("--scenes", type=int, default=20000, help="photos to train on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="passes over them (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="pairs of a step (default: %(default)s)")
    parser.add_argument(
        "--same-place", type=float, default=0.5, help="share of the batches with one place (default: %(default)s)"
    )
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=80.0, help="least 1 / temperature at the end (default: %(default)s)"
    )
    parser.add_argument("--weight-decay", type=float, default=0.05, help="AdamW's, of matrices (default: %(default)s)")
    parser.add_argument("--width", type=int, default=16, help="width of the ResNet (default: %(default)s)")
    parser.add_argument("--layers", type=int, nargs=4, default=(1, 2, 2, 1), help="its blocks (default: %(default)s)")
    parser.add_argument("--embed-dim", type=int, default=256, help="width of a feature (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--full-precision", action="store_true", help="no bfloat16 in the image tower")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, weights and order (default: %(default)s)")
    return parser.parse_args()


def learn_merges(texts: list[str], most: int) -> list[tuple[str, str]]:
    """Byte-pair merges of lower-case words, the most frequent first."""
    words = Counter(word for text in texts for word in text.split())
    split = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in split.items():
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            split[word] = tuple(joined)
    return merges


def write_tokenizer(path: Path, texts: list[str]) -> None:
    """The file that open_clip's ``SimpleTokenizer`` reads: a header, then a merge a line, no blank line."""
    merges = learn_merges(texts, MAX_TOKENS - 512 - 2)
    lines = ["#version: 0.2 of the mini-world", *(" ".join(pair) for pair in merges)]
    # No time in the gzip header: the same captions give the same bytes.
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def model_config(args: argparse.Namespace, vocab_size: int) -> dict:
    """An open_clip model config."""
    return {
        "embed_dim": args.embed_dim,
        "vision_cfg": {"image_size": 64, "layers": list(args.layers), "width": args.width, "patch_size": None},
        "text_cfg": {
            "context_length": MINICLIP_CONTEXT,
            "vocab_size": vocab_size,
            "width": 96,
            "heads": 4,
            "layers": 2,
        },
    }


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """``model.encode_text`` without the padding; exact, for the mask is causal and the end token is read."""
    ends = tokens.argmax(1)
    used = int(ends.max()) + 1
    x = model.token_embedding(tokens[:, :used]) + model.positional_embedding[:used]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:used, :used]))
    return F.normalize(x[torch.arange(len(x)), ends] @ model.text_projection, dim=-1)


def batches(places: np.ndarray, size: int, same_place: float, generator: torch.Generator) -> list[Tensor]:
    """Rows of the batches of an epoch, in random order; a part of them by place."""
    order = torch.randperm(len(places), generator=generator).numpy()
    cut = round(same_place * len(order))
    by_place = order[:cut][np.argsort(places[order[:cut]], kind="stable")]
    found = [rows[i : i + size] for rows in (by_place, order[cut:]) for i in range(0, len(rows) - size + 1, size)]
    return [torch.from_numpy(np.sort(found[i])) for i in torch.randperm(len(found), generator=generator)]


def train(args: argparse.Namespace, model: nn.Module, tokenizer, scenes: list[Scene]) -> None:
    """Render the photos once and train on them, with other captions in each epoch."""
    began = time.time()
    photos = []
    for i, scene in enumerate(scenes):
        photos.append(np.asarray(photograph(scene)))
        if (i + 1) % 4000 == 0:
            print_log(f"{i + 1} photos rendered, {time.time() - began:.0f} s", logger="current")
    held = [scene_of("clip_val", args.seed, i) for i in range(200)]
    held_photos = [photograph(s) for s in held]
    held_texts = [describe(s, scene_rng("clip_val", args.seed, i, 1)) for i, s in enumerate(held)]
    model.visual.to(memory_format=torch.channels_last)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1 and p is not model.logit_scale]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": args.weight_decay},
            {"params": [*others, model.logit_scale], "weight_decay": 0.0},
        ],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    places = np.array([PLACES.index(s.place) for s in scenes])
    generator = torch.Generator().manual_seed(args.seed)
    total, step = args.epochs * len(batches(places, args.batch, args.same_place, torch.Generator())), 0
    for epoch in range(args.epochs):
        model.train()
        texts = [describe(s, scene_rng("clip", args.seed, i, 2 + epoch), WEB) for i, s in enumerate(scenes)]
        tokens = tokenizer(texts)
        losses = []
        for rows in batches(places, args.batch, args.same_place, generator):
            warm = min(1.0, (step + 1) / (0.05 * total))
            rate = args.lr * warm * (0.5 + 0.5 * math.cos(math.pi * step / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            pixels, _ = shift_and_sharpen(to_pixels([photos[r] for r in rows]), generator)
            pixels = relight(pixels, generator)
            # On a CPU, channels last and bfloat16 each halve the time of the small convolutions.
            with torch.autocast("cpu", torch.bfloat16, enabled=not args.full_precision):
                images = model.encode_image(pixels.contiguous(memory_format=torch.channels_last))
            images = F.normalize(images.float(), dim=-1)
            logits = model.logit_scale.exp() * images @ encode_text(model, tokens[rows]).T
            target = torch.arange(len(rows))
            loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                # CLIP's ends at 100 after far more steps: a lower bound that rises takes it near there in time.
                least = 15 + (args.scale - 15) * min(1.0, step / (0.7 * total))
                model.logit_scale.clamp_(math.log(least), math.log(100))
            losses.append(float(loss.detach()))
            step += 1
        model.eval()
        i, t = image_features(model, held_photos), text_features(model, tokenizer, held_texts)
        print_log(
            f"epoch {epoch + 1}/{args.epochs}: loss {np.mean(losses):.3f}, scale {model.logit_scale.exp():.1f}, "
            f"recall@1 among 200 photo->caption {recall_at_1(i, t):.3f}, caption->photo {recall_at_1(t, i):.3f}, "
            f"{time.time() - began:.0f} s",
            logger="current",
        )


def main() -> None:
    """Write tokenizer, config and weights."""
    args = parse_args()
    logging.getLogger().setLevel(logging.INFO)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    scenes = [scene_of("clip", args.seed, i) for i in range(args.scenes)]
    texts = [describe(s, scene_rng("clip", args.seed, i, 1), WEB) for i, s in enumerate(scenes)]
    prompts = ["a photo of", "a drawing of", "there are in the image"]
    write_tokenizer(args.out / "bpe.txt.gz", texts + prompts)
    tokenizer = miniclip_tokenizer(args.out / "bpe.txt.gz")
    config = model_config(args, tokenizer.vocab_size)
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    model = build_miniclip(args.out / "config.json")
    count = sum(p.numel() for p in model.parameters())
    print_log(f"{tokenizer.vocab_size} tokens, {count:,} parameters", logger="current")
    train(args, model, tokenizer, scenes)
    from safetensors.torch import save_file

    halves = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in halves.items()}, str(args.out / "weights.safetensors"))
    print_log(f"saved to {args.out}", logger="current")


if __name__ == "__main__":
    main()
