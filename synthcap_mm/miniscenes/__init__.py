"""The embedded default: a small world that needs no download.

Scenes from a grammar (:mod:`.scenes`), captions as several people would write
them (:mod:`.language`), two looks (:mod:`.painting`), the sources that the
stores are made from (:mod:`.sources`), a mini-CLIP (:mod:`.encoder`) and a detector (:mod:`.detector`): their files
are named here. Importing this package loads nothing heavy.
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
#: Weights of the detector (safetensors, half precision).
MINIDETECTOR_WEIGHTS = str(_HERE / "minidetector" / "weights.safetensors")
#: Tokens of a caption, start and end included.
MINICLIP_CONTEXT = 28


def miniclip_cfg() -> dict[str, str]:
    """The mini-CLIP's files: ``model_config``, ``weights`` and ``tokenizer``, as absolute paths."""
    return {"model_config": MINICLIP_CONFIG, "weights": MINICLIP_WEIGHTS, "tokenizer": MINICLIP_TOKENIZER}
