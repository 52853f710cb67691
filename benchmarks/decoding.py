"""Batched beam search with cache against one image at a time without.

Prints images per second of both, and their ratio, from one run: the same
decoder (the flagship's: 4 layers, 4 heads, width 768), prefixes and prompts,
and the same captions, which is checked.

    python benchmarks/decoding.py [--batch 16] [--beams 5] [--repeats 3]
"""

import argparse
import time

import torch

from synthcap_mm.models.heads import GPT2CaptionHead


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=14, help="tokens of each caption (COCO's mean with CLIP's BPE)")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    head = GPT2CaptionHead(49408, 49406, 49407, 49407, width=768, layers=4, heads=4).eval()
    # An untrained decoder repeats its input, since both ends share their embeddings; this one has opinions.
    head.decoder.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn(49408, 768))
    prefix = torch.randn(args.batch, 10, 768)
    lengths = torch.randint(1, 12, (args.batch,))
    ids = torch.randint(0, 49000, (args.batch, int(lengths.max())))
    options = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens, "num_beams": args.beams}

    def batched() -> list:
        return head.generate(prefix, ids, lengths, **options)["ids"][:, 0].tolist()

    def single() -> list:
        rows = []
        for i in range(args.batch):
            one = slice(i, i + 1)
            written = head.generate(prefix[one], ids[one, : lengths[i]], lengths[one], use_cache=False, **options)
            rows.append(written["ids"][0, 0].tolist())
        return rows

    best: dict[str, float] = {}
    written: dict[str, list] = {}
    for _ in range(args.repeats):
        for name, function in (("batched, cache", batched), ("one at a time, no cache", single)):
            start = time.perf_counter()
            written[name] = function()
            best[name] = min(best.get(name, float("inf")), time.perf_counter() - start)
    same = sum(a == b for a, b in zip(*written.values()))
    for name, seconds in best.items():
        print(f"{name:<26}{args.batch / seconds:8.2f} images/s")
    slow, fast = best["one at a time, no cache"], best["batched, cache"]
    print(f"ratio {slow / fast:.2f} (wanted: at least 4); {same} of {args.batch} captions are the same")


if __name__ == "__main__":
    main()
