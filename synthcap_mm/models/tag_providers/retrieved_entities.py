"""Things that the captions nearest to a picture name often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.necks.memory_attention import top_memory
from synthcap_mm.models.tag_providers.caption_entities import CaptionEntities
from synthcap_mm.options import Count, EncoderName, Name
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store
from synthcap_mm.structures import Tag


@MODELS.register_module()
class RetrievedEntities:
    """Names that are frequent in the captions most similar to a picture's feature.

    `IFCap <https://arxiv.org/abs/2409.18046>`_'s entity filtering: of ``k`` retrieved captions the nouns are counted,
    and those that enough of them have make the hard prompt. A tag's score is the share of the ``k`` captions that name
    it, so that the prompt's ``min_score`` is the threshold. Nouns are names of a vocabulary, see
    :class:`CaptionEntities`. For pictures only: a training caption would find itself.

    Args:
        store (str): path of the store whose training captions are searched.
        vocabulary (str | list[str]): see :class:`CaptionEntities`.
        k (int): captions retrieved. Defaults to 9: IFCap's public code, for COCO (7 for Flickr30k).
        aliases (dict, optional): see :class:`CaptionEntities`. Defaults to ``None``.
        search_encoder (str, optional): name of the store's encoder that retrieves, in ``synthesis.other_encoders``.
            IFCap retrieves with CLIP RN50x64. Defaults to ``None``: the store's own.

    Raises:
        StoreError: if there is no store, or it has no such encoder.
        ValueError: see :class:`CaptionEntities`; in use, if there are fewer captions than ``k``.
    """

    recipe_version: int = 1
    not_in_recipe: tuple[str, ...] = ()

    def __init__(
        self,
        store: Name,
        vocabulary: str | Path | Sequence[str],
        k: Count = 9,
        aliases: Mapping[str, Sequence[str]] | None = None,
        search_encoder: EncoderName | None = None,
    ) -> None:
        self.entities = CaptionEntities(vocabulary, aliases)
        self.store = Store.open(store)
        self.k = k
        self.encoder = search_encoder

    def fingerprint(self) -> dict:
        """Of the encoder whose features are compared with the captions'."""
        return self.store.fingerprint_of(self.encoder)

    @cached_property
    def memory(self) -> CaptionMemory:
        """The captions that are searched, read at first use."""
        return CaptionMemory.from_store(self.store)

    @torch.no_grad()
    def detect_features(self, feats: Tensor) -> list[list[Tag]]:
        """Tags of pictures that are encoded already.

        Args:
            feats (Tensor): ``(B, D)`` image features by ``search_encoder``, L2-normalised.

        Returns:
            list[list[Tag]]: the most frequent first; of equally frequent ones the one of the nearer caption.
        """
        found = []
        for part in feats.float().split(256):
            _, nearest = top_memory(part, self.memory.to(part.device).features_of(self.encoder), 1.0, self.k)
            for places in nearest.tolist():
                counts = Counter(name for place in places for name in self.entities.names_in(self.memory.text(place)))
                found.append([Tag(name, count / self.k) for name, count in counts.most_common()])
        return found
