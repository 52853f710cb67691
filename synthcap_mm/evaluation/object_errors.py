"""Objects that a caption of the mini-world names and that are not there, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synthcap_mm.evaluation.caption_metric import CaptionMetric
from synthcap_mm.miniscenes.language import kinds_named
from synthcap_mm.miniscenes.sources import scene_named
from synthcap_mm.registry import METRICS


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


def object_errors(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Count objects, as `CHAIR <https://arxiv.org/abs/1809.02156>`_ does, by the mini-world's own words.

    Synonyms count as the kind that they name; how many there are, and their colours, do not count.

    Args:
        predictions: caption by key.
        references: captions of people by key; the same keys.

    Returns:
        ``(averages, per_image)``, ×100. 'CHAIR_s': captions that name something which is not there; 'CHAIR_i': named
        things that are not there, of all that are named; 'missed': things there that the caption does not
        name, of all that are there. Of an image: the same of its one caption; one that names nothing has CHAIR_i 0.

    Raises:
        ValueError: if there is no caption.
    """
    if not predictions:
        raise ValueError("there are no captions to look for objects in")
    totals = dict.fromkeys(("wrong", "named", "missed", "there", "erring"), 0)
    per_image = {}
    for key in sorted(predictions):
        named, there = kinds_named(predictions[key]), kinds_there(key, references[key])
        wrong, missed = len(named - there), len(there - named)
        per_image[key] = {
            "CHAIR_s": 100.0 * bool(wrong),
            "CHAIR_i": 100.0 * wrong / max(1, len(named)),
            "missed": 100.0 * missed / max(1, len(there)),
        }
        counts = (wrong, len(named), missed, len(there), bool(wrong))
        totals = {name: totals[name] + count for name, count in zip(totals, counts)}
    averages = {
        "CHAIR_s": 100.0 * totals["erring"] / len(predictions),
        "CHAIR_i": 100.0 * totals["wrong"] / max(1, totals["named"]),
        "missed": 100.0 * totals["missed"] / max(1, totals["there"]),
    }
    return averages, per_image


@METRICS.register_module()
class MiniScenesMetric(CaptionMetric):
    """:class:`CaptionMetric`, and the mini-world's object errors (see :func:`object_errors`).

    Args:
        **options: see :class:`CaptionMetric`.
    """

    def compute_metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """As :class:`CaptionMetric`'s, with 'CHAIR_s', 'CHAIR_i' and 'missed'."""
        averages = super().compute_metrics(results)
        predictions = {result.key: result.caption for result in results}
        references = {result.key: result.references for result in results}
        return averages | object_errors(predictions, references)[0]
