"""Decoders."""

from synthcap_mm.models.heads.gpt2_caption_head import GPT2CaptionHead

__all__ = ["GPT2CaptionHead"]
