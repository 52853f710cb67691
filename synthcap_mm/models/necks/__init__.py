"""Steps from an encoder's features to the decoder's prefix."""

from .base import PHASES, BaseNeck
from .diffusion_bridge import DiffusionBridge
from .moment_matching import MomentMatching
from .noise_injection import NoiseInjection
from .prefix_projector import PrefixProjector
from .pseudo_feature_optimizer import PseudoFeatureOptimizer, refine
from .retrieval_fusion import RetrievalFusion
from .text_as_prefix import TextAsPrefix
from .text_feature_mix import TextFeatureMix
from .text_memory_projection import TextMemoryProjection

__all__ = [
    "PHASES",
    "BaseNeck",
    "DiffusionBridge",
    "MomentMatching",
    "NoiseInjection",
    "PrefixProjector",
    "PseudoFeatureOptimizer",
    "RetrievalFusion",
    "TextAsPrefix",
    "TextFeatureMix",
    "TextMemoryProjection",
    "refine",
]
