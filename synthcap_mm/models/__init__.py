"""Everything that is built from ``MODELS``."""

from synthcap_mm.models import backbones, generators, heads, necks, tag_providers
from synthcap_mm.models.captioner import SynthCaptioner
from synthcap_mm.models.preprocessor import CaptionPreprocessor

__all__ = [
    "CaptionPreprocessor",
    "SynthCaptioner",
    "backbones",
    "generators",
    "heads",
    "necks",
    "tag_providers",
]
