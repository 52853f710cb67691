"""Images per second of a Stable Diffusion 1.5 pipeline, and the hours for COCO's captions that follow from it.

The architecture is the real one, the weights are random (speed does not depend on them), so nothing is downloaded. Meant
for a GPU; on a CPU the figures would say nothing, so it refuses unless --tiny, which tries out the script itself.

    python benchmarks/generation.py                       float16, batches 1 to 32, with and without compile
    python benchmarks/generation.py --json cost.json
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from synthcap_mm.models.generators import DiffusersGenerator

CAPTIONS = 566_747  # COCO, Karpathy's train and restval
GPUS = (1, 8, 64)
WORDS = "a man dog cat red bus on the street table with two people standing in front of"


def shapes(tiny: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings of text encoder, UNet and VAE: Stable Diffusion 1.5's, or tiny ones."""
    # Stable Diffusion 1.5's config files; the classes' defaults are those of version 1 where nothing is said.
    text = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    text |= {"num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # the letters' vocabulary below
    unet = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
    unet |= {"cross_attention_dim": 768, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4}
    blocks = (128, 256, 512, 512)
    vae = {"block_out_channels": blocks, "layers_per_block": 2, "sample_size": 512, "norm_num_groups": 32}
    vae |= {"latent_channels": 4, "down_block_types": ("DownEncoderBlock2D",) * 4}
    vae |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
    if tiny:
        text |= {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        unet |= {"sample_size": 8, "block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
        unet |= {"cross_attention_dim": 32, "attention_head_dim": 2}
        blocks = (8, 8, 16, 16)
        vae |= {"block_out_channels": blocks, "layers_per_block": 1, "sample_size": 64, "norm_num_groups": 4}
    return text, unet, vae


def write_pipeline(folder: Path, tiny: bool) -> str:
    """A pipeline of Stable Diffusion 1.5's architecture with random weights in float16, saved; or a tiny one like it."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) + end for end in ("", "</w>") for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    text, unet, vae = shapes(tiny)
    torch.manual_seed(0)
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**vae),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(**unet),
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    if not tiny:
        pipe.to(torch.float16)
    pipe.save_pretrained(folder)
    return str(folder)


def parameters(folder: str) -> dict[str, int]:
    """Numbers of weights by part, from the files."""
    from safetensors import safe_open

    counts = {}
    for part in ("unet", "vae", "text_encoder"):
        counts[part] = 0
        for file in Path(folder, part).glob("*.safetensors"):
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a dict
                    counts[part] += int(torch.tensor(weights.get_slice(name).get_shape()).prod())
    return counts


def measure(folder: str, batch: int, compiled: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Images per second of one setting: the median of ``args.repeats`` batches, after one that warms up."""
    torch._dynamo.reset()  # else the sixth batch size would meet the limit of compilations
    torch.cuda.empty_cache()
    generator = DiffusersGenerator(
        folder,
        dtype="float32" if args.tiny else "float16",
        steps=args.steps,
        batch_size=batch,
        compile=compiled,
        device=args.device,
    )
    words = WORDS.split()
    captions = [" ".join(words[(i + j) % len(words)] for j in range(9)) for i in range(batch)]
    on_gpu = generator.device.type == "cuda"
    result: dict[str, Any] = {"batch": batch, "compile": compiled}
    try:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        generator.generate(captions, list(range(batch)))
        result["warm_up_s"] = round(time.perf_counter() - start, 2)
        times = []
        for repeat in range(args.repeats):
            start = time.perf_counter()  # the images are on the CPU when generate returns, so nothing is pending
            generator.generate(captions, [batch * repeat + i for i in range(batch)])
            times.append(time.perf_counter() - start)
        result["images_per_s"] = batch / sorted(times)[len(times) // 2]
        if on_gpu:
            result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    except torch.OutOfMemoryError:
        result["images_per_s"] = None
    return result


def hours(images_per_s: float, gpus: int, captions: int = CAPTIONS) -> float:
    """Hours of drawing, if every GPU draws as fast as the one that was measured."""
    return captions / images_per_s / gpus / 3600


def table(results: list[dict[str, Any]]) -> str:
    """Markdown; the hours are computed, not measured."""
    head = ["batch", "compile", "images/s", "peak GiB", *(f"hours on {n} GPU{'s' * (n > 1)} (computed)" for n in GPUS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in results:
        speed = row["images_per_s"]
        cells = [row["batch"], "yes" if row["compile"] else "no"]
        if speed is None:
            cells += ["out of memory", "", *("" for _ in GPUS)]
        else:
            cells += [f"{speed:.2f}", row.get("peak_gib", "–"), *(f"{hours(speed, n):.1f}" for n in GPUS)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--steps", type=int, default=20, help="denoising steps, as in configs/synthcap_coco.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", choices=["both", "yes", "no"], default="both")
    parser.add_argument("--device", help="default: the GPU")
    parser.add_argument("--tiny", action="store_true", help="a tiny pipeline, to try the script; figures mean nothing")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not args.tiny:
        raise SystemExit(
            "no GPU here: a CPU's figures would say nothing of the cost of a real run. On a machine with one, run the "
            "same command; --tiny tries out the script with a pipeline that draws nothing worth measuring"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = write_pipeline(Path(folder), args.tiny)
        weights = parameters(path)
        kinds = {"both": (False, True), "yes": (True,), "no": (False,)}[args.compile]
        results = [measure(path, batch, compiled, args) for compiled in kinds for batch in args.batches]
    import diffusers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    report = {
        "device": device,
        "tiny": args.tiny,
        "steps": args.steps,
        "parameters": weights,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "results": results,
        "hours_computed": {
            f"{row['batch']}{'-compiled' if row['compile'] else ''}": {n: hours(row["images_per_s"], n) for n in GPUS}
            for row in results
            if row["images_per_s"]
        },
    }
    print(f"{device}; {args.steps} steps; weights: " + ", ".join(f"{k} {v:,}" for k, v in weights.items()))
    if args.tiny:
        print("TINY: the pipeline is no Stable Diffusion; the figures mean nothing")
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
