"""Tags by zero-shot classification over a vocabulary, for those without a detector."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import Child, Texts, data
from synthcap_mm.models.backbones.base import BaseBackbone
from synthcap_mm.models.tag_providers.base import BaseTagProvider
from synthcap_mm.options import Count, Model, Part, Positive, Range
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import Tag

if TYPE_CHECKING:
    from PIL.Image import Image

#: Names encoded at a time.
_TEXT_BATCH = 256
# Written with a vowel and spoken with a consonant, and the other way round.
_SPOKEN_CONSONANT = re.compile(
    r"(?:uni(?!n|m)|use|usu|utens|util|uran|uri|ute|uk|eu|ewe|one\b|once\b|ouija|u-|ufo)", re.IGNORECASE
)
_SPOKEN_VOWEL = re.compile(r"(?:hour|honest|honou?r|heir|x-ray|[fhlmnrsx]-|(?:hd|lcd|led|mp3|suv)\b)", re.IGNORECASE)


def article(name: str) -> str:
    """'a' or 'an', by how the first word of ``name`` is spoken in English (the common exceptions are known)."""
    if _SPOKEN_VOWEL.match(name):
        return "an"
    return "an" if name[:1].lower() in tuple("aeiou") and not _SPOKEN_CONSONANT.match(name) else "a"


def fill_prompt(prompt: str, name: str) -> str:
    """``prompt`` with ``name`` for its ``{}``; an indefinite article right before it becomes the right one."""
    right = re.sub(r"\b(a)n?(?= \{\})", lambda found: found[1] + article(name)[1:], prompt, flags=re.IGNORECASE)
    return right.replace("{}", name)


def read_vocabulary(vocabulary: str | Path | Sequence[str]) -> list[str]:
    """Names from a text file with one a line (empty lines are passed over), or from a list.

    Args:
        vocabulary: path or list.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is not UTF-8, a name is repeated (with its line), or
            fewer than two names are left.
    """
    if isinstance(vocabulary, (str, Path)):
        path = Path(vocabulary)
        where = f"vocabulary {str(path)!r}"
        if not path.is_file():
            raise FileNotFoundError(f"no {where}; it is a text file with one name a line")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8: {error}") from error
    else:
        where, lines = "vocabulary", list(vocabulary)
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if name in first:
            raise ValueError(f"{where}: {name!r} in line {number} repeats line {first[name]}; each name may occur once")
        if name:
            first[name] = number
    if len(first) < 2:
        raise ValueError(f"{where} has {len(first)} names; a choice needs two or more")
    return list(first)


@MODELS.register_module()
class CLIPTagProvider(BaseTagProvider):
    """Names from a vocabulary by the similarity of their features with the picture's.

    The scores are a softmax over the whole vocabulary, so they compete: in a
    picture of many things each has a low score, and in one of things that the vocabulary lacks some name has a high
    one, which ``min_cosine`` leaves out. Tags have no box, and area 1.

    Args:
        encoder (dict | BaseBackbone): a backbone, or the config of one; who makes or reads a store fills in the
            store's.
        vocabulary (str | list[str]): path of a text file with one name a line, or the names.
        prompts (Sequence[str]): sentences around a name's ``{}``; their features
            are averaged. An 'a' before ``{}`` becomes 'an' where it should.
            Defaults to ('a photo of a {}.',), CLIP's.
        temperature (float, optional): of the softmax. Defaults to None, the
            encoder's own (1 / ``logit_scale``; CLIP: 0.01).
        max_tags (int): see :class:`BaseTagProvider`. Defaults to 20.
        min_score (float): see :class:`BaseTagProvider`. Defaults to 0.05.
        min_cosine (float, optional): names whose cosine with the picture is lower are left out, whatever their score.
            The level belongs to the encoder. Defaults to ``None``: none is left out.

    Raises:
        FileNotFoundError: if the vocabulary is missing.
        UserError: for prompts without ``{}``.
        ValueError: for a vocabulary with repeated names.
    """

    exportable = {
        "encoder": Child(),
        "vocabulary": Texts(),
        **data("prompts", "temperature", "max_tags", "min_score", "min_cosine"),
    }

    def __init__(
        self,
        encoder: Model | BaseBackbone,
        vocabulary: str | Sequence[str],
        prompts: str | Sequence[str] = ("a photo of a {}.",),
        temperature: Positive | None = None,
        max_tags: Count = 20,
        min_score: Part = 0.05,
        min_cosine: Annotated[float, Range("[-1, 1]")] | None = None,
    ) -> None:
        super().__init__(max_tags, min_score)
        self.prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not self.prompts or any("{}" not in prompt for prompt in self.prompts):
            raise UserError(f"prompts={list(self.prompts)}; every prompt needs a {{}} where the name goes")
        self.names = read_vocabulary(vocabulary)
        self.encoder: BaseBackbone = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        self.temperature = temperature if temperature is not None else 1.0 / self.encoder.logit_scale
        self.min_cosine = -1.0 if min_cosine is None else min_cosine
        self._name_features: torch.Tensor | None = None

    @property
    def name_features(self) -> torch.Tensor:
        """``(V, D)`` float32 L2-normalised features of the vocabulary, made once."""
        if self._name_features is None:
            features: torch.Tensor | int = 0
            for prompt in self.prompts:
                texts = [fill_prompt(prompt, name) for name in self.names]
                parts = [
                    self.encoder.encode_text(texts[start : start + _TEXT_BATCH])
                    for start in range(0, len(texts), _TEXT_BATCH)
                ]
                features = features + torch.cat(parts)
            self._name_features = BaseBackbone.unit(features)
        return self._name_features

    @torch.no_grad()
    def detect(self, images: list[Image]) -> list[list[Tag]]:
        """See :meth:`BaseTagProvider.detect`; the pictures are encoded together."""
        return self.detect_features(self.encoder.encode_pil(list(images)))

    @torch.no_grad()
    def detect_features(self, feats: torch.Tensor) -> list[list[Tag]]:
        """Tags of pictures that are encoded already, by the same encoder.

        Args:
            feats: ``(B, D)`` image features, L2-normalised, of any float type.

        Returns:
            list[list[Tag]]: as :meth:`detect` gives them.
        """
        names = self.name_features
        with torch.autocast(names.device.type, enabled=False):
            cosines = feats.to(names.device, torch.float32) @ names.T
            scores = (cosines / self.temperature).softmax(dim=-1)
            scores = scores.where(cosines >= self.min_cosine, 0.0)  # not above any min_score
        # a stable sort, so that equal scores come in the vocabulary's order
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        scores, order = scores[:, : self.max_tags].tolist(), order[:, : self.max_tags].tolist()
        return [
            self.keep([Tag(self.names[column], score) for score, column in zip(*row)]) for row in zip(scores, order)
        ]

    def to(self, device: str | torch.device) -> CLIPTagProvider:
        """Moves the encoder and the vocabulary's features."""
        self.encoder.to(device)
        if self._name_features is not None:
            self._name_features = self._name_features.to(device)
        return self
