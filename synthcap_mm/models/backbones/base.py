"""The contract of an encoder: images and sentences into one space."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from synthcap_mm.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

#: The sentence of the fingerprint. Changing it, or the picture, makes every existing store unreadable.
PROBE_SENTENCE = "a small brown dog runs across the green grass next to a red ball"
_PROBE_SIDE = 224


def probe_image() -> Image:
    """The picture of the fingerprint: 224 x 224 RGB, drawn with integers only, the same everywhere.

    Smooth slopes, a few hard-edged discs and bars and a little fixed texture, so
    that most of what an encoder looks at takes part.
    """
    import numpy as np
    from PIL import Image as PILImage

    y, x = np.mgrid[0:_PROBE_SIDE, 0:_PROBE_SIDE].astype(np.int64)
    picture = np.stack([x, y, (x + 2 * y) // 3], axis=-1)
    for cx, cy, radius, colour in (
        (70, 80, 40, (230, 40, 30)),
        (150, 60, 25, (250, 220, 40)),
        (120, 160, 50, (40, 90, 220)),
    ):
        picture[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = colour
    picture[(x > 20) & (x < 34) & (y > 100)] = (20, 20, 20)
    picture[(y > 190) & (y < 200)] = (245, 245, 245)
    texture = ((x * 7919 + y * 104729 + x * y * 31) >> 3) % 23 - 11
    return PILImage.fromarray(np.clip(picture + texture[..., None], 0, 255).astype(np.uint8))


class _FrozenMeta(ABCMeta):
    """Freezes every backbone once its constructor, a subclass's included, has run."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        backbone = super().__call__(*args, **kwargs)
        missing = [name for name in ("name", "embed_dim", "logit_scale") if not hasattr(backbone, name)]
        if missing:
            raise TypeError(
                f"{cls.__name__} is a backbone: its __init__ must set {', '.join(f'self.{name}' for name in missing)}"
            )
        backbone.requires_grad_(False)
        backbone.eval()
        return backbone


class BaseBackbone(nn.Module, metaclass=_FrozenMeta):
    """A frozen encoder of images and sentences into one space.

    To plug in an encoder, subclass this, set the three attributes in
    ``__init__``, and write :meth:`preprocess`, :meth:`encode_image` and
    :meth:`encode_text`. What the base class sees to: the encoder is frozen after
    construction (evaluation mode for good, no gradients), it is in nobody's
    ``state_dict`` and is missed by no ``load_state_dict``, and it has a
    fingerprint by which stores know it again.

    Attributes:
        name (str): what the encoder is called in messages and stores; no
            path of this machine.
        embed_dim (int): D, the width of the features.
        logit_scale (float): 1 / temperature that the encoder was trained with
            (CLIP: 100), for information.
        not_in_recipe (tuple[str, ...]): arguments of the constructor that do not decide the features, such as cache
            folders and devices.
        recipe_version (int): raised when the class gives other features for the same arguments.
    """

    name: str
    embed_dim: int
    logit_scale: float
    not_in_recipe: tuple[str, ...] = ()
    recipe_version: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_save_nothing)
        self.register_load_state_dict_post_hook(_strike_missing)

    @abstractmethod
    def preprocess(self, image: Image) -> torch.Tensor:
        """A picture of any size and mode as the encoder wants it.

        Args:
            image: the picture.

        Returns:
            torch.Tensor: ``(3, H, W)`` float32 on the CPU; the same H and W for every picture.
        """

    @abstractmethod
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of preprocessed pictures; one picture's do not depend on the others in the batch.

        Args:
            pixels: ``(B, 3, H, W)`` float32 on any device.

        Returns:
            torch.Tensor: ``(B, D)`` float32, L2-normalised, on :attr:`device`.
                :meth:`unit` makes this of raw features.
        """

    @abstractmethod
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Features of sentences; those longer than the encoder's context are cut.

        Args:
            texts: B sentences.

        Returns:
            torch.Tensor: ``(B, D)`` float32, L2-normalised, on :attr:`device`.
        """

    def is_too_long(self, texts: list[str]) -> list[bool]:
        """Which sentences :meth:`encode_text` cuts, because they exceed the encoder's context.

        Args:
            texts: B sentences.

        Returns:
            list[bool]: B answers. The base class answers ``False`` for all: right
                for an encoder that never cuts; override it otherwise.
        """
        return [False] * len(texts)

    def encode_pil(self, images: list[Image]) -> torch.Tensor:
        """:meth:`preprocess` and :meth:`encode_image` of a list of pictures.

        Args:
            images: B pictures.

        Returns:
            torch.Tensor: ``(B, D)`` float32, L2-normalised, on :attr:`device`.
        """
        if not images:
            return torch.empty((0, self.embed_dim), device=self.device)
        return self.encode_image(torch.stack([self.preprocess(image) for image in images]))

    def encode_grid(self, images: list[Image]) -> torch.Tensor:
        """Features of the places of pictures, before they are pooled: what a decoder's cross-attention may see.

        Args:
            images: B pictures.

        Returns:
            torch.Tensor: ``(B, N, C)`` float32 on :attr:`device`; the same N and C for every picture.

        Raises:
            UserError: if the encoder has none, as the base class.
        """
        raise UserError(f"{type(self).__name__} has no features of places (encode_grid), which grids=True asks for")

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """:meth:`encode_image`."""
        return self.encode_image(pixels)

    def fingerprint(self) -> dict[str, Any]:
        """The encoder's name and what it returns for a fixed picture and a fixed sentence.

        Returns:
            dict: ``{'name': str, 'image': list[float], 'text': list[float]}``, D
                numbers each. :func:`synthcap_mm.store.fingerprint.same_encoder` compares two.
        """
        image = self.encode_pil([probe_image()])[0]
        text = self.encode_text([PROBE_SENTENCE])[0]
        return {
            "name": self.name,
            "image": [round(float(value), 7) for value in image.cpu()],
            "text": [round(float(value), 7) for value in text.cpu()],
        }

    @staticmethod
    def unit(features: torch.Tensor) -> torch.Tensor:
        """Raw features ``(B, D)`` of any float type as L2-normalised float32."""
        return F.normalize(features.float(), dim=-1)

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU if there are none."""
        for tensor in self.parameters():
            return tensor.device
        for tensor in self.buffers():
            return tensor.device
        return torch.device("cpu")

    def train(self, mode: bool = True) -> BaseBackbone:
        """Stays in evaluation mode whatever ``mode`` says."""
        return super().train(False)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        self.__dict__["_loaded_prefix"] = prefix  # _strike_missing needs it and does not get it as an argument
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


# Hooks rather than overridden methods: MMEngine walks the modules by itself when it saves and loads, and honours these.
def _save_nothing(backbone: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]


def _strike_missing(backbone: nn.Module, incompatible: Any) -> None:
    prefix = backbone.__dict__["_loaded_prefix"]
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not key.startswith(prefix)]
