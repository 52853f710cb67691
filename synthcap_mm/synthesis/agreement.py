"""Whether the tags of an image are of what a caption names."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from synthcap_mm.errors import UserError
from synthcap_mm.options import Chance, Model, Positive, check_when_built
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store


@check_when_built
class TagAgreement:
    """Dice's coefficient of the names in an image's tags and the names in a caption.

    Both are read by the same vocabulary: of a tag ``'red dog'`` and of *a puppy runs* the name ``'dog'`` is found, if
    the vocabulary has it with its other words. 1 where the two name the same (or both nothing), 0 where they share
    nothing. How many there are of a thing does not count.

    Args:
        entities: config of what reads names, of the MODELS registry, with ``names_in(sentence) -> list[str]``:
            :class:`~synthcap_mm.models.tag_providers.CaptionEntities`.
        weight: of the agreement beside a score that is a cosine. Default 1.0 (assumed: a name counts more than
            how alike two sentences are).
        min_score: tags count from this detection score. Default 0.3
            (:class:`~synthcap_mm.models.tag_prompt.TagPrompt`'s).

    Raises:
        FileNotFoundError: if the vocabulary is missing.
        UserError: if ``entities`` reads no sentences, or an argument is out of range.
    """

    def __init__(self, entities: Model, weight: Positive = 1.0, min_score: Chance = 0.3) -> None:
        self.entities = MODELS.build(dict(entities))
        if not hasattr(self.entities, "names_in"):
            raise UserError(
                f"curation: reassign.agreement.entities={entities['type']} reads no names from a sentence (names_in); "
                "use CaptionEntities"
            )
        self.weight, self.min_score = float(weight), float(min_score)
        self._names_of_tag = lru_cache(maxsize=65_536)(lambda tag: frozenset(self.entities.names_in(tag)))

    def of(self, store: Store, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        """How far images agree with captions.

        Args:
            store: the store of both.
            captions: N caption rows.
            images: ``(N, K)`` image rows.

        Returns:
            ``(N, K)`` float64 in [0, 1].
        """
        rows, inverse = np.unique(images, return_inverse=True)
        tagged = [self._names_of(store, int(row)) for row in rows]
        agreement = np.empty(images.shape)
        for i, (row, own) in enumerate(zip(captions, inverse.reshape(images.shape))):
            named = frozenset(self.entities.names_in(store.captions.value("text", int(row))))
            for j, image in enumerate(own):
                both = len(named) + len(tagged[image])
                agreement[i, j] = 2 * len(named & tagged[image]) / both if both else 1.0
        return agreement

    def _names_of(self, store: Store, image: int) -> frozenset[str]:
        tags = (tag for tag in store.tags(image) if tag.score >= self.min_score)
        return frozenset().union(*(self._names_of_tag(tag.name) for tag in tags))
