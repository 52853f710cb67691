"""Picture → feature, tags, flags; for drawn, retrieved and real pictures alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from synthcap_mm.errors import UserError
from synthcap_mm.images import original_size
from synthcap_mm.models.named_encoder import named_encoder
from synthcap_mm.store.fingerprint import describe_mismatch, same_encoder
from synthcap_mm.structures import Tag

#: Below this standard deviation of its pixels (0 to 255) an image shows nothing.
UNIFORM_STD = 2.0


def image_flags(image: Image) -> list[str]:
    """``['black']``, ``['uniform']`` or nothing: pictures that show nothing are no use in training."""
    pixels = np.asarray(image.convert("L").resize((64, 64)), np.float32)
    if pixels.std() >= UNIFORM_STD:
        return []
    return ["black"] if pixels.mean() < 8 else ["uniform"]


def _in_original_pixels(tags: list[Tag], image: Image) -> list[Tag]:
    """Tags of an image that may have been reduced, with boxes as on the picture that it was reduced from."""
    if (original := original_size(image)) == image.size:
        return tags
    x, y = original[0] / image.width, original[1] / image.height
    scales = (x, y, x, y)
    return [
        tag if tag.box is None else replace(tag, box=tuple(value * scale for value, scale in zip(tag.box, scales)))
        for tag in tags
    ]


class ImageReader:
    """Encodes and tags batches of pictures.

    Args:
        encoder: the backbone.
        tag_provider: finds the tags, or ``None``.
        other_encoder: gives further backbones by name. Default ``None``: there are none.

    Raises:
        UserError: if the provider reads features only, and those of another encoder.
    """

    def __init__(
        self,
        encoder: torch.nn.Module,
        tag_provider: Any | None,
        other_encoder: Callable[[str], torch.nn.Module] | None = None,
    ) -> None:
        self.encoder, self._other_encoder = encoder, other_encoder
        self.tag_provider = tag_provider
        # A provider that reads features of the same encoder needs no second encoding.
        self._by_feature = False
        if hasattr(tag_provider, "detect_features"):
            own = tag_provider if hasattr(tag_provider, "fingerprint") else tag_provider.encoder
            read = self.encoder_named(named_encoder(tag_provider))
            self._by_feature = same_encoder(own.fingerprint(), read.fingerprint())
            if not self._by_feature and not hasattr(tag_provider, "detect"):
                raise UserError(
                    f"{type(tag_provider).__name__} reads features of its own encoder only: "
                    f"{describe_mismatch(own.fingerprint(), read.fingerprint())}"
                )

    def encoder_named(self, name: str | None) -> torch.nn.Module:
        """A backbone by its name; ``None``: :attr:`encoder`."""
        return self.encoder if name is None else self._other_encoder(name)

    def tags(
        self, images: Sequence[Image | None], feats: Mapping[str | None, torch.Tensor] | None = None
    ) -> list[list[Tag]]:
        """Tags of pictures, their boxes in pixels of the original; none for ``None``, one that does not decode.

        Args:
            images: N pictures.
            feats: features of those that decode, by the name of the encoder, where they are at hand.
        """
        tags: list[list[Tag]] = [[] for _ in images]
        there = [i for i, image in enumerate(images) if image is not None]
        if self.tag_provider is None or not there:
            return tags
        pictures = [images[i] for i in there]
        if self._by_feature:
            name = named_encoder(self.tag_provider)
            encoded = (feats or {}).get(name)
            encoded = self.encoder_named(name).encode_pil(pictures) if encoded is None else encoded
            found = self.tag_provider.detect_features(encoded)
        else:
            found = self.tag_provider.detect(pictures)
        for i, tag in zip(there, found, strict=True):
            tags[i] = _in_original_pixels(tag, images[i])
        return tags

    def features(
        self, images: Sequence[Image | None], encoder: str | None = None
    ) -> tuple[np.ndarray, list[list[str]], torch.Tensor | None]:
        """Features and flags of pictures.

        Args:
            images: N pictures; ``None`` is one that does not decode.
            encoder: name of the encoder. Default ``None``: the store's own.

        Returns:
            tuple: ``(N, D)`` float32 (zeros where there is no feature), N lists of flags, and the features of the
            pictures that decode as the encoder gave them, for :meth:`tags`.
        """
        backbone = self.encoder_named(encoder)
        features = np.zeros((len(images), backbone.embed_dim), np.float32)
        flags = [["undecodable"] if image is None else image_flags(image) for image in images]
        there = [i for i, image in enumerate(images) if image is not None]
        if not there:
            return features, flags, None
        feats = backbone.encode_pil([images[i] for i in there])
        for i, feature in zip(there, feats.float().cpu().numpy(), strict=True):
            if np.isfinite(feature).all():
                features[i] = feature
            else:
                flags[i].append("non_finite")
        return features, flags, feats
