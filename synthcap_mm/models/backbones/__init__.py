"""Frozen encoders of images and sentences."""

from synthcap_mm.models.backbones.base import BaseBackbone
from synthcap_mm.models.backbones.open_clip_backbone import OpenCLIPBackbone
from synthcap_mm.models.backbones.sentence_encoder import SentenceEncoder

__all__ = ["BaseBackbone", "OpenCLIPBackbone", "SentenceEncoder"]
