"""What synthesis costs beside the models, and what reading its store saves in training.

The generator computes: a denoising U-Net of random weights, some steps, decoded to 512 x 512 pixels. The encoder is
the mini-CLIP, the detector torchvision's SSDLite of random weights. Measured in turns in one process, best of
--repeats:

1. the images stage's images per second (drawing, encoding, detecting, writing shards) over those of generator, encoder and
   detector called in sequence in a bare loop that writes nothing (wanted: at least 0.95); with --keep-images it keeps
   the pictures too, which the loop does not;
2. the images stage over the generator alone (wanted on a GPU: at least 0.95; said, not wanted, on a CPU, where encoder and
   detector need the same cores);
3. samples per second read from the store over pictures decoded per second (JPEG, 512 x 512; wanted: at least 20).

    python benchmarks/synthesis.py [--images 96] [--batch 8] [--steps 10] [--repeats 3] [--keep-images]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from PIL import Image
from torch import nn

from synthcap_mm.datasets import SynthPairDataset
from synthcap_mm.models.generators import BaseGenerator
from synthcap_mm.models.tag_providers import BaseTagProvider
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store
from synthcap_mm.structures import Tag
from synthcap_mm.synthesis.images import draw
from synthcap_mm.synthesis.run import Worker, run_stages
from synthcap_mm.synthesis.synthesis import Synthesis


@MODELS.register_module()
class RandomDenoiser(BaseGenerator):
    """Denoises a latent of 64 x 64 in some steps with convolutions of random weights; eight times as large in pixels."""

    def __init__(self, steps: int = 10, width: int = 32) -> None:
        torch.manual_seed(0)
        self.steps, self.width = steps, width
        layers = [nn.Conv2d(4, width, 3, padding=1), nn.SiLU()]
        for _ in range(4):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(width, 4, 3, padding=1)).eval()
        self.device = torch.device("cpu")

    @torch.no_grad()
    def generate(self, captions: list[str], seeds: list[int]) -> list[Image.Image]:
        noise = [torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(s)) for s in seeds]
        latent = torch.stack(noise).to(self.device)
        for _ in range(self.steps):
            latent = latent - 0.3 * self.net(latent)
        pixels = nn.functional.interpolate(latent[:, :3], size=512, mode="bicubic").sigmoid()
        pixels = (pixels * 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(p) for p in pixels]

    def to(self, device: torch.device) -> RandomDenoiser:
        self.device = torch.device(device)
        self.net.to(device)
        return self


@MODELS.register_module()
class RandomSSD(BaseTagProvider):
    """torchvision's SSDLite with random weights."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large

        torch.manual_seed(0)
        self.net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91).eval()

    @torch.no_grad()
    def detect(self, images: list[Image.Image]) -> list[list[Tag]]:
        from torchvision.transforms.functional import to_tensor

        device = next(self.net.parameters()).device
        found = self.net([to_tensor(image).to(device) for image in images])
        return [
            self.keep(
                [Tag(str(n), s, tuple(b)) for n, s, b in zip(*(f[k].tolist() for k in ("labels", "scores", "boxes")))]
            )
            for f in found
        ]

    def to(self, device: torch.device) -> RandomSSD:
        self.net.to(device)
        return self


def seconds_of(work, device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--width", type=int, default=32, help="of the denoiser")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep-images", action="store_true", help="as JPEG")
    args = parser.parse_args()
    init_default_scope("synthcap_mm")
    with tempfile.TemporaryDirectory() as folder:

        def synthesis_in(place: str, keep_images: str | bool) -> Synthesis:
            return Synthesis(
                store=place,
                captions={"type": "MiniScenesCaptions", "num": args.images},
                encoder={"type": "MiniCLIP"},
                generator={"type": "RandomDenoiser", "steps": args.steps, "width": args.width},
                tag_provider={"type": "RandomSSD"},
                shard_size=32,
                image_batch=args.batch,
                keep_images=keep_images,
            )

        synthesis = synthesis_in(str(Path(folder) / "pairs"), "jpg")
        models, device = synthesis.models, synthesis.device
        rows = [synthesis._rows_to_draw(i) for i in range(len(synthesis.spans))]
        batches = [r[s : s + args.batch] for r in rows for s in range(0, len(r), args.batch)]

        def alone() -> None:
            for batch in batches:
                draw(models.generator, batch)

        @torch.no_grad()
        def loop() -> None:
            for batch in batches:
                images = draw(models.generator, batch)
                models.encoder_named().encode_pil(images).cpu()
                models.reader.tag_provider.detect(images)

        def whole() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                fresh = synthesis_in(place, "jpg" if args.keep_images else False)
                fresh.models = models
                run_stages([stage for stage in fresh.stages() if stage.name == "images"], Worker())

        best: dict[str, float] = {}
        for _ in range(args.repeats + 1):  # the first warms up
            for name, work in (("alone", alone), ("loop", loop), ("stage", whole)):
                seconds = seconds_of(work, device)
                best[name] = min(best.get(name, float("inf")), seconds)
        synthesis.run()
        store = Store.open(synthesis.view)
        dataset = SynthPairDataset(str(synthesis.view))

        def read() -> None:
            for _ in range(10):
                for i in range(len(dataset)):
                    dataset[i]

        def decode() -> None:
            for i in range(len(dataset)):
                store.image(i)

        reading = min(seconds_of(read, device) for _ in range(args.repeats)) / 10 / len(dataset)
        decoding = min(seconds_of(decode, device) for _ in range(args.repeats)) / len(dataset)
    n = args.images
    print(f"device {device}, {torch.get_num_threads()} thread(s), batch {args.batch}, best of {args.repeats}")
    print(f"generator alone            {n / best['alone']:8.2f} images/s")
    print(f"bare loop, in sequence     {n / best['loop']:8.2f} images/s")
    print(
        f"images stage{', keeping pictures' if args.keep_images else '            '}   {n / best['stage']:8.2f} images/s"
    )
    print(f"stage / loop               {best['loop'] / best['stage']:8.3f} (wanted: at least 0.95)")
    wanted = " (wanted: at least 0.95)" if device.type == "cuda" else " (no aim on a CPU)"
    print(f"stage / generator alone    {best['alone'] / best['stage']:8.3f}{wanted}")
    print(f"a sample from the store    {1e6 * reading:8.1f} µs; a picture decoded {1e6 * decoding:.1f} µs")
    print(f"reading / decoding         {decoding / reading:8.1f} times faster (wanted: at least 20)")


if __name__ == "__main__":
    main()
