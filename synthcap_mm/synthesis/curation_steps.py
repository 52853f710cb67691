"""The steps of curation: which pairs stay, which captions get other images, which captions are one."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from synthcap_mm.options import Count, GivenTo, Share, check_when_built
from synthcap_mm.store.recipes import settings_recipe
from synthcap_mm.synthesis.agreement import TagAgreement

if TYPE_CHECKING:
    from synthcap_mm.synthesis.curation import Curation

#: Similarities that differ by less are ties: that of a caption with itself depends on rounding.
DECIMALS = 6


@dataclasses.dataclass
class Pairs:
    """Pairs being curated, in the order that they will be served in.

    Attributes:
        caption: rows of the captions table, ``(N,)`` int64, ascending.
        image: rows of the images table, ``(N,)`` int64.
        seed: what the image was drawn with, ``(N,)`` int64.
        score: cosine of the two, ``(N,)`` float32.
    """

    caption: np.ndarray
    image: np.ndarray
    seed: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.caption)

    def take(self, index: np.ndarray) -> Pairs:
        """The pairs at ``index`` (numbers or a mask)."""
        return Pairs(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    def first(self) -> Pairs:
        """Each caption's first pair: what the dataset serves by default."""
        return self.take(np.unique(self.caption, return_index=True)[1])


def best(count: int, keep: float, *keys: np.ndarray) -> np.ndarray:
    """Ascending indices of the best ``keep`` of ``count`` rows (half up, at least one).

    Args:
        count: number of rows.
        keep: fraction in (0, 1].
        *keys: ``(count,)`` each, larger is better, the first counts most; equal rows come lower row first.
    """
    order = np.lexsort([np.arange(count), *(-k for k in reversed(keys))])
    return np.sort(order[: max(1, math.floor(keep * count + 0.5))])


@check_when_built
@dataclasses.dataclass
class ClipScoreFilter:
    """Keeps the pairs with the highest CLIP score (cosine of caption and image).

    A caption of several images loses the bad ones; one without any left is not served.

    Args:
        keep: fraction of the pairs. Default 0.9 (assumed).
    """

    type: ClassVar[str] = "clip_score"
    keep: Share = 0.9

    def apply(self, pairs: Pairs, work: Curation, stage: str) -> tuple[Pairs, dict[str, Any]]:
        """The pairs that stay, and what to report."""
        kept = pairs.take(best(len(pairs), self.keep, pairs.score))
        return kept, {"lowest_score": float(kept.score.min())}


@check_when_built
@dataclasses.dataclass
class Reassign:
    """One-to-many reassignment with cycle consistency, as SynC does it.

    For each caption its most similar images are looked up; for each of these, its
    most similar captions. An image scores by the best sentence similarity of those
    captions to the first one, and the caption goes to the image that scores
    highest (of equal ones, the most similar to the caption). The captions with
    the highest scores are kept. Several captions may get the same image.

    The encoder sees an image as a whole; a captioner that is told tags reads names. With
    ``agreement`` an image scores ``weight`` × the agreement of its tags with what the caption
    names besides, and the image that the caption has takes part.

    Args:
        images: K, images looked up for each caption. Default 15 (SynC).
        captions: captions looked up for each image. Default 2 (SynC).
        keep: τ, fraction of the captions kept. Default 0.9 (SynC).
        agreement: arguments of :class:`~synthcap_mm.synthesis.agreement.TagAgreement`. Default
            ``None``: tags are not looked at (SynC).

    Raises:
        FileNotFoundError: if the vocabulary of ``agreement`` is missing.
        UserError: if an argument of ``agreement`` is wrong.
    """

    type: ClassVar[str] = "reassign"
    images: Count = 15
    captions: Count = 2
    keep: Share = 0.9
    agreement: Annotated[dict, GivenTo(TagAgreement)] | None = None

    def __post_init__(self) -> None:
        self._agreement = None if self.agreement is None else TagAgreement(**self.agreement)

    def apply(self, pairs: Pairs, work: Curation, stage: str) -> tuple[Pairs, dict[str, Any]]:
        """The captions' new pairs, and what to report."""
        before = pairs.first()
        captions = before.caption
        images, similarity = work.images_of(captions, self.images)
        if self._agreement is not None:
            images = np.concatenate([images, before.image[:, None]], axis=1)
            similarity = np.concatenate([similarity, work.similarity(before)[:, None]], axis=1)
        looked_at = np.unique(images)
        back = work.captions_of(f"{stage}-captions_of_images", looked_at, captions, self.captions)
        chosen, score, returned = work.cycle(f"{stage}-cycle", captions, images, looked_at, back, self._agreement)
        kept = best(len(captions), self.keep, score, similarity[np.arange(len(captions)), chosen])
        image = images[np.arange(len(captions)), chosen]
        # with agreement the score is the sum of both
        name = "cycle_score" if self._agreement is None else "cycle_and_agreement_score"
        report = {
            "reassigned": float((image != before.image)[kept].mean()),
            f"mean_{name}": float(score[kept].mean()),
            f"lowest_{name}": float(score[kept].min()),
            "own_caption_found": float(returned[kept].mean()),
        }
        if self._agreement is not None:
            both = np.stack([before.image, image], axis=1)[kept]
            agreed = self._agreement.of(work.store, captions[kept], both).mean(0)
            report |= {"agreement_before": float(agreed[0]), "agreement_after": float(agreed[1])}
        return work.make_pairs(captions[kept], image[kept]), report


@check_when_built
@dataclasses.dataclass
class MergeDuplicates:
    """Merges captions that say the same: one stands for them all.

    Captions of the same words (case and punctuation aside), and captions whose
    sentence features are nearly the same, are merged into the first of them that
    is not merged itself. So each merged caption is within ``min_similarity`` of the
    one that stands for it; chains do not form. The one that stays inherits the
    pairs of all, each image once, the best first; what is not merged stays as it is.

    Args:
        min_similarity: cosine of sentence features from which two captions say the
            same. Default 0.98 (assumed).
        neighbours: nearest captions that are looked at for each. Default 32 (assumed).
    """

    type: ClassVar[str] = "merge_duplicates"
    min_similarity: Share = 0.98
    neighbours: Count = 32

    def apply(self, pairs: Pairs, work: Curation, stage: str) -> tuple[Pairs, dict[str, Any]]:
        """The merged captions' pairs, and what to report."""
        captions = np.unique(pairs.caption)
        stands = np.arange(len(captions))
        by_words: dict[str, int] = {}
        for i, row in enumerate(captions):
            stands[i] = by_words.setdefault(_words(work.store.captions.value("text", int(row))), i)
        distinct = np.flatnonzero(stands == np.arange(len(captions)))
        same_words = len(captions) - len(distinct)

        # one more than asked for, since a caption mostly finds itself
        near, similarity = work.similar_captions(f"{stage}-similar", captions[distinct], self.neighbours + 1)
        earlier: dict[int, list[tuple[float, int]]] = {}
        rows, columns = np.nonzero(similarity.round(DECIMALS) >= self.min_similarity)
        for a, b, value in zip(rows, near[rows, columns], similarity[rows, columns].round(DECIMALS)):
            if a != b:  # it does not matter which of the two found the other
                earlier.setdefault(int(max(a, b)), []).append((-float(value), int(min(a, b))))
        leader = np.arange(len(distinct))
        for i in sorted(earlier):
            # earlier captions are decided; merge only into one that stands for itself
            free = [(value, j) for value, j in earlier[i] if leader[j] == j]
            if free:
                leader[i] = min(free)[1]
        stands[distinct] = distinct[leader]
        stands = stands[stands]  # captions with the words of one that was merged follow it

        owner = captions[stands[np.searchsorted(captions, pairs.caption)]]
        moved = owner != pairs.caption
        score = pairs.score.copy()
        score[moved] = work.scores(owner[moved], pairs.image[moved])
        merged = dataclasses.replace(pairs, caption=owner, score=score)
        grown = np.isin(owner, owner[moved])
        merged = merged.take(np.lexsort([np.arange(len(owner)), np.where(grown, -score, 0), owner]))
        once = np.unique(np.stack([merged.caption, merged.image]), axis=1, return_index=True)[1]
        report = {"same_words": int(same_words), "similar": int((leader != np.arange(len(leader))).sum())}
        return merged.take(np.sort(once)), report


#: By the ``type`` that ``curation.steps`` gives them.
STEPS = {step.type: step for step in (ClipScoreFilter, Reassign, MergeDuplicates)}


def step_recipe(step: Any) -> dict[str, Any]:
    """A step's type and arguments; those that are ``None`` are off and left out."""
    values = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    return {"type": step.type, **{name: settings_recipe(value) for name, value in values.items() if value is not None}}


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold())) or text
