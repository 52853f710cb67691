"""Objects that a caption of the mini-world names and that are not there, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence

from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.scorer import CaptionScorer, Scores
from synthcap_mm.miniscenes.language import kinds_named
from synthcap_mm.miniscenes.sources import scene_named
from synthcap_mm.registry import CAPTION_SCORERS


def kinds_there(key: str, references: Sequence[str]) -> set[str]:
    """The kinds of things in a picture.

    Args:
        key: of the photo; where it names a scene (``'test-0-000012'``), the scene tells, since people leave
            things out.
        references: the captions, which tell where the key does not: of a drawing, whose painter saw no more.
    """
    scene = scene_named(key)
    if scene is not None:
        return {group.kind for group in scene.groups}
    return set().union(*map(kinds_named, references))


@CAPTION_SCORERS.register_module("ObjectErrors")
class ObjectErrors(CaptionScorer):
    """Objects of the mini-world, counted as `CHAIR <https://arxiv.org/abs/1809.02156>`_ does, by the world's own words.

    ``ObjectErrors-s``: captions that name something which is not there; ``ObjectErrors-i``: named things that are not
    there, of all that are named; ``ObjectErrors-missed``: things there that the caption does not name, of all that are
    there; ×100, lower is better. Synonyms count as the kind that they name; how many there are, and their colours, do
    not count. A caption that names nothing has no ``-i`` of its own.
    """

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        named = [kinds_named(captions.predictions[key]) for key in captions.keys]
        there = [kinds_there(key, captions.references[key]) for key in captions.keys]
        wrong = [len(says - has) for says, has in zip(named, there)]
        missed = [len(has - says) for says, has in zip(named, there)]
        said, present = sum(map(len, named)), sum(map(len, there))
        return Scores(
            {
                "ObjectErrors-s": 100 * sum(map(bool, wrong)) / len(captions),
                "ObjectErrors-i": 100 * sum(wrong) / max(1, said),
                "ObjectErrors-missed": 100 * sum(missed) / max(1, present),
            },
            {
                "ObjectErrors-s": [100.0 * bool(bad) for bad in wrong],
                "ObjectErrors-i": [100 * bad / len(says) if says else float("nan") for bad, says in zip(wrong, named)],
                "ObjectErrors-missed": [100 * less / max(1, len(has)) for less, has in zip(missed, there)],
            },
        )
