"""The mini-world's encoder, ready to be named in a config."""

from __future__ import annotations

from typing import Any

from synthcap_mm.exportable import data
from synthcap_mm.miniscenes import MINICLIP_CONFIG, MINICLIP_TOKENIZER, MINICLIP_WEIGHTS
from synthcap_mm.models.backbones.open_clip_backbone import OpenCLIPBackbone
from synthcap_mm.registry import MODELS


@MODELS.register_module()
class MiniCLIP(OpenCLIPBackbone):
    """The mini-CLIP that ships with the package: an :class:`OpenCLIPBackbone` with its three files named.

    Args:
        **options: of :class:`OpenCLIPBackbone`, over the files.
    """

    exportable = data("precision")

    def __init__(self, **options: Any) -> None:
        files = {"pretrained": MINICLIP_WEIGHTS, "model_config": MINICLIP_CONFIG, "tokenizer": MINICLIP_TOKENIZER}
        super().__init__(**{"model_name": "miniclip", **files, **options})

    @classmethod
    def from_export(cls, settings: dict[str, Any], where: str) -> dict[str, Any]:
        """See :meth:`OpenCLIPBackbone.from_export`; its files are the package's."""
        return settings
