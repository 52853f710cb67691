"""The embedded default: a small world that needs no download.

Scenes from a grammar (:mod:`.scenes`), captions as several people would write
them (:mod:`.language`), two looks (:mod:`.painting`), the sources that the
stores are made from (:mod:`.sources`) and a mini-CLIP: its files are named
here. Importing this package loads nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
#: Model config of the mini-CLIP, for open_clip.
MINICLIP_CONFIG = str(_HERE / "miniclip" / "config.json")
#: Weights of the mini-CLIP (safetensors, half precision).
MINICLIP_WEIGHTS = str(_HERE / "miniclip" / "weights.safetensors")
#: Merges of the mini-CLIP's tokenizer, for ``open_clip.SimpleTokenizer(bpe_path=...)``.
MINICLIP_TOKENIZER = str(_HERE / "miniclip" / "bpe.txt.gz")
#: One name a line, for zero-shot tags: each kind of object in each of its colours.
VOCABULARY_FILE = str(_HERE / "vocabulary.txt")
#: Tokens of a caption, start and end included.
MINICLIP_CONTEXT = 28


def miniclip_cfg() -> dict[str, str]:
    """The mini-CLIP's files: ``model_config``, ``weights`` and ``tokenizer``, as absolute paths."""
    return {"model_config": MINICLIP_CONFIG, "weights": MINICLIP_WEIGHTS, "tokenizer": MINICLIP_TOKENIZER}
