"""BLEU, ROUGE-L and CIDEr of captions, as the COCO evaluation defines them, without Java."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import broadcast_object_list, collect_results, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from synthcap_mm.evaluation.tokenizer import ptb_tokenize
from synthcap_mm.registry import METRICS
from synthcap_mm.requirements import require
from synthcap_mm.structures import CaptionSample

#: Metrics that :func:`score_captions` knows. ``BLEU`` gives ``BLEU-1`` to ``BLEU-4``.
KNOWN_METRICS = ("BLEU", "ROUGE_L", "CIDEr")


def _check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    if isinstance(metrics, str):
        raise ValueError(f"metrics={metrics!r} is a string; give a list of {', '.join(KNOWN_METRICS)}")
    unknown = [name for name in metrics if name not in KNOWN_METRICS]
    if unknown or not metrics:
        raise ValueError(f"unknown metrics {unknown}; known: {', '.join(KNOWN_METRICS)}")
    return tuple(dict.fromkeys(metrics))


def _few(names: Iterable[Any]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")


@lru_cache(maxsize=1 << 16)  # the references are the same at each validation
def _tokenized(caption: str) -> str:
    return " ".join(ptb_tokenize(caption))


def score_captions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str] = KNOWN_METRICS,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Score captions against references with pycocoevalcap's scorers.

    CIDEr weighs n-grams by how many of *these* images have them in their
    references, so a score belongs to a set of images; for a single image it is 0.

    Args:
        predictions (dict[str, str]): caption by image key. A caption without
            words is allowed, and scores 0.
        references (dict[str, list[str]]): reference captions by image key; the same keys.
        metrics (list[str]): of :data:`KNOWN_METRICS`. Defaults to all.

    Returns:
        tuple: ``(averages, per_image)``; the averages over the images are keyed
        'BLEU-1' … 'BLEU-4' (corpus BLEU, no mean of the images'), 'ROUGE_L',
        'CIDEr' and 'length' (mean words of a prediction). ``per_image`` has the
        same names for each key. All but 'length' are ×100 (CIDEr ≈ 100 is what
        papers write as 100).

    Raises:
        ValueError: for unknown metrics, no images, keys that are on one side
            only, or images without references that have words.
    """
    metrics = _check_metrics(metrics)
    keys = sorted(predictions)  # the same sums, to the bit, whatever the order
    if not keys:
        raise ValueError("there are no captions to score")
    missing = sorted(set(references) - set(predictions))
    if missing:
        raise ValueError(f"{len(missing)} images have references but no prediction: {_few(missing)}")
    unknown = sorted(set(predictions) - set(references))
    if unknown:
        raise ValueError(f"{len(unknown)} predictions are for images without references: {_few(unknown)}")
    alone = [key for key in keys if isinstance(references[key], str)]
    if alone:
        raise ValueError(f"the references of {_few(alone)} are one string; a list of strings is expected")
    truth = {key: [_tokenized(text) for text in references[key]] for key in keys}
    wordless = [key for key in keys if not any(truth[key])]
    if wordless:
        raise ValueError(f"{len(wordless)} images have no reference with words: {_few(wordless)}")
    hypotheses = {key: [_tokenized(predictions[key])] for key in keys}

    columns: dict[str, Sequence[float]] = {}
    averages: dict[str, float] = {}
    if "BLEU" in metrics:
        bleu = require("pycocoevalcap.bleu.bleu", purpose="BLEU").Bleu(4)
        scores, each = bleu.compute_score(truth, hypotheses, verbose=0)
        for n in range(4):
            averages[f"BLEU-{n + 1}"], columns[f"BLEU-{n + 1}"] = scores[n], each[n]
    if "ROUGE_L" in metrics:
        rouge = require("pycocoevalcap.rouge.rouge", purpose="ROUGE-L").Rouge()
        averages["ROUGE_L"], columns["ROUGE_L"] = rouge.compute_score(truth, hypotheses)
    if "CIDEr" in metrics:
        cider = require("pycocoevalcap.cider.cider", purpose="CIDEr").Cider()
        averages["CIDEr"], columns["CIDEr"] = cider.compute_score(truth, hypotheses)
    averages = {name: 100 * float(value) for name, value in averages.items()}
    lengths = [len(hypotheses[key][0].split()) for key in keys]
    averages["length"] = float(np.mean(lengths))
    per_image = {
        key: {name: 100 * float(column[row]) for name, column in columns.items()} | {"length": float(lengths[row])}
        for row, key in enumerate(keys)
    }
    return averages, per_image


class _Result(NamedTuple):
    """What a rank keeps of a sample."""

    sample_id: int
    key: str
    caption: str
    references: list[str]
    domain: str | None = None


@METRICS.register_module()
class CaptionMetric(BaseMetric):
    """BLEU-1 to BLEU-4, ROUGE-L and CIDEr (all ×100), and the mean length in words.

    Gathered over ranks by the images' keys. The samples that a distributed
    sampler adds to make the ranks' shares equal (``-size % ranks`` of them) count
    once; a missing, repeated or unknown image is an error, never an average over
    fewer. They are named where the dataset's ``metainfo['keys']`` tells which
    images there are, as this project's datasets do.

    Where samples have a ``domain`` (NoCaps), each domain is scored by itself too, as ``'in-domain/CIDEr'`` and so
    on: as if its images were the whole set, which is also where CIDEr then counts words. The names without a
    domain are of all images ("entire").

    Args:
        metrics (Sequence[str]): of 'BLEU', 'ROUGE_L', 'CIDEr'. Defaults to all three.
        outfile_prefix (str, optional): write the references, the prediction and
            the scores of each image to ``{outfile_prefix}.json`` (on the main
            process, by rename). Defaults to None.
        collect_device (str): see :class:`mmengine.evaluator.BaseMetric`. Defaults to 'cpu'.
        prefix (str, optional): put before the metrics' names. Defaults to None:
            they are 'CIDEr' and so on, which is what ``save_best`` names.
        collect_dir (str, optional): see :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: for unknown metrics.
    """

    def __init__(
        self,
        metrics: Sequence[str] = KNOWN_METRICS,
        outfile_prefix: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        # BaseMetric warns of an absent prefix; here it is meant.
        super().__init__(collect_device=collect_device, prefix=prefix or "caption", collect_dir=collect_dir)
        self.prefix = prefix
        self.metrics = _check_metrics(metrics)
        self.outfile_prefix = outfile_prefix

    def process(self, data_batch: Any, data_samples: Sequence[CaptionSample]) -> None:
        """Keep a batch's captions.

        Args:
            data_batch (Any): not used.
            data_samples (Sequence[CaptionSample]): with ``key``, ``pred_caption`` and ``references``.

        Raises:
            ValueError: if a sample lacks its prediction or its references; they are named.
        """
        silent = [sample.key for sample in data_samples if sample.pred_caption is None]
        if silent:
            raise ValueError(f"{len(silent)} samples have no pred_caption: {_few(silent)}; run predict on them first")
        bare = [sample.key for sample in data_samples if not sample.references]
        if bare:
            raise ValueError(
                f"{len(bare)} samples have no references: {_few(bare)}; "
                "metrics need a dataset whose photos have captions"
            )
        for sample in data_samples:
            self.results.append(
                _Result(sample.sample_id, sample.key, sample.pred_caption, list(sample.references), sample.domain)
            )

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather all ranks' captions and score them.

        Args:
            size (int): number of images in the dataset.

        Returns:
            dict[str, float]: the metrics, on every rank.

        Raises:
            ValueError: on every rank, if an image is missing, repeated or unknown.
        """
        ranks = get_world_size()
        # One item a rank, so that nothing is cut before it has been looked at.
        parts = collect_results([list(self.results)], ranks, self.collect_device, self.collect_dir)
        self.results.clear()
        outcome: list[dict[str, Any]] = [{}]
        if is_main_process():
            try:
                results = [result for part in parts for result in part]
                self._check_complete(results, size, ranks)
                found = self.compute_metrics(results)
                outcome = [{"metrics": {f"{self.prefix}/{k}" if self.prefix else k: v for k, v in found.items()}}]
            except ValueError as error:
                # the other ranks wait for an answer; let them fail with the same words
                outcome = [{"error": str(error)}]
        broadcast_object_list(outcome)
        if "error" in outcome[0]:
            raise ValueError(outcome[0]["error"])
        return outcome[0]["metrics"]

    def _check_complete(self, results: Sequence[_Result], size: int, ranks: int) -> None:
        """Every image of the dataset once, but for the padding of a distributed sampler."""
        counts = Counter((result.sample_id, result.key) for result in results)
        known = (self.dataset_meta or {}).get("keys")
        if known is not None:
            seen, known = {key for _, key in counts}, set(known)
            missing, unknown = sorted(known - seen), sorted(seen - known)
            if missing:
                raise ValueError(f"{len(missing)} of {len(known)} images have no prediction: {_few(missing)}")
            if unknown:
                raise ValueError(f"{len(unknown)} predictions are for images that the dataset lacks: {_few(unknown)}")
        if len(counts) != size:
            raise ValueError(
                f"there are predictions for {len(counts)} images, but the dataset has {size}: "
                "an average over some of them would be another score"
            )
        repeated = [key for (_, key), count in counts.items() if count > 1]
        # what the sampler adds to make the ranks' shares equal, and nothing else
        padding = -size % ranks
        if len(results) - len(counts) > padding:
            raise ValueError(
                f"{len(repeated)} images were predicted more than once: {_few(repeated)} "
                f"(on {ranks} rank(s), {padding} repeats would be the sampler's padding of {size} images)"
            )

    def compute_metrics(self, results: Sequence[_Result]) -> dict[str, float]:
        """Score gathered results; the same sample twice counts once.

        Args:
            results (Sequence): what :meth:`process` kept, of all ranks.

        Returns:
            dict[str, float]: see :func:`score_captions`; and the same for each domain, ``'DOMAIN/NAME'``.

        Raises:
            ValueError: if different samples have the same key, or there are none.
        """
        unique: dict[str, _Result] = {}
        for result in results:
            first = unique.setdefault(result.key, result)
            if first.sample_id != result.sample_id:
                raise ValueError(
                    f"the key {result.key!r} belongs to two samples, {first.sample_id} and {result.sample_id}; "
                    "keys must be unique for predictions to be joined with references"
                )
        predictions = {key: result.caption for key, result in unique.items()}
        references = {key: result.references for key, result in unique.items()}
        averages, per_image = score_captions(predictions, references, self.metrics)
        for domain in sorted({r.domain for r in unique.values() if r.domain is not None}):
            keys = [key for key, result in unique.items() if result.domain == domain]
            of_domain, _ = score_captions(
                {key: predictions[key] for key in keys}, {key: references[key] for key in keys}, self.metrics
            )
            averages |= {f"{domain}/{name}": value for name, value in of_domain.items()}
        empty = [key for key, caption in predictions.items() if not caption.strip()]
        if empty:
            print_log(f"{len(empty)} of {len(unique)} predicted captions are empty: {_few(empty)}", logger="current")
        if self.outfile_prefix is not None:
            from synthcap_mm.stores.shards import write_json

            images = {
                key: {"references": references[key], "hypothesis": predictions[key], "scores": per_image[key]}
                for key in sorted(unique)
            }
            write_json(f"{self.outfile_prefix}.json", {"metrics": averages, "images": images})
        return averages
