"""The metrics of a captioner during training and test: kept by sample, gathered over ranks, scored once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import broadcast_object_list, collect_results, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from synthcap_mm.evaluation.scorer import (
    DEFAULT_METRICS,
    CaptionSet,
    ScoredCaptions,
    build_scorers,
    few,
    score_set,
)
from synthcap_mm.registry import METRICS, MODELS
from synthcap_mm.structures import CaptionSample


def score_captions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str | Mapping[str, Any]] = DEFAULT_METRICS,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Score captions against references, by metrics that need nothing else.

    Args:
        predictions (dict[str, str]): caption by image key. A caption without
            words is allowed, and scores 0.
        references (dict[str, list[str]]): reference captions by image key; the same keys.
        metrics (list[str | dict]): see :func:`~synthcap_mm.evaluation.scorer.build_scorers`. Defaults to
            BLEU, ROUGE_L, CIDEr and length.

    Returns:
        tuple: ``(averages, per_image)``; the averages over the images are keyed
        'BLEU-1' … 'BLEU-4' (corpus BLEU, no mean of the images'), 'ROUGE_L',
        'CIDEr' and 'length' (mean words of a prediction). ``per_image`` has the
        same names for each key. All but 'length' are ×100 (CIDEr ≈ 100 is what
        papers write as 100).

    Raises:
        ValueError: for unknown metrics, no images, keys that are on one side only, images without references
            that have words, or a metric that cannot be computed here (:func:`score_set` names those instead).
    """
    scorers = build_scorers(metrics)
    found = score_set(CaptionSet(predictions, references), scorers)
    if found.skipped:
        raise ValueError("; ".join(f"{name} {why}" for name, why in found.skipped.items()))
    return found.averages, found.per_image


def text_encoder(config: Mapping[str, Any], store_encoder: Mapping[str, Any]) -> Callable[[list[str]], np.ndarray]:
    """The text side of an encoder, after comparing it with the one that made a store's image features.

    Args:
        config: of a backbone.
        store_encoder: the store's fingerprint, ``Store.encoder``.

    Returns:
        Callable: texts → ``(N, D)`` float32; a text that was encoded before is not encoded again.

    Raises:
        StoreError: if it is another encoder; both are named.
    """
    import torch

    from synthcap_mm.store import StoreError
    from synthcap_mm.store.fingerprint import describe_mismatch, same_encoder

    backbone = MODELS.build(dict(config)).to("cuda" if torch.cuda.is_available() else "cpu")
    own = backbone.fingerprint()
    if not same_encoder(own, store_encoder):
        raise StoreError(
            "CLIPScore: the encoder for the text is another one than made the images' features: "
            f"{describe_mismatch(own, store_encoder)}. Name the encoder of the store, or encode the photos anew"
        )
    known: dict[str, np.ndarray] = {}

    def encode(texts: list[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            with torch.no_grad():
                known.update(zip(new, backbone.encode_text(new).float().cpu().numpy(), strict=True))
        return np.stack([known[text] for text in texts])

    return encode


class _Result(NamedTuple):
    """What a rank keeps of a sample."""

    sample_id: int
    key: str
    caption: str
    references: list[str]
    domain: str | None = None
    feat: np.ndarray | None = None


@METRICS.register_module()
class CaptionMetric(BaseMetric):
    """Metrics of captions, chosen by name; by default BLEU-1 to BLEU-4, ROUGE-L, CIDEr and the mean length.

    Shares and scores are ×100. What a metric needs beside the captions (Java, the
    images' features, an encoder, …) it declares; where that is not there, it is
    skipped, and the log and the json say why; it never has a number then. The names
    are in docs/metrics.md.

    Gathered over ranks by the images' keys. The samples that a distributed
    sampler adds to make the ranks' shares equal (``-size % ranks`` of them) count
    once; a missing, repeated or unknown image is an error, never an average over
    fewer. They are named where the dataset's ``metainfo['keys']`` tells which
    images there are, as this project's datasets do.

    Where samples have a ``domain`` (NoCaps), each domain is scored by itself too, as ``'in-domain/CIDEr'`` and so
    on: as if its images were the whole set, which is also where CIDEr then counts words. The names without a
    domain are of all images ("entire").

    Args:
        metrics (Sequence[str | dict]): names, or ``dict(type=NAME, ...)`` where a metric has options. Defaults to
            ``('BLEU', 'ROUGE_L', 'CIDEr', 'length')``, which needs no Java.
        outfile_prefix (str, optional): write the references, the prediction and
            the scores of each image to ``{outfile_prefix}.json`` (on the main
            process, by rename). Defaults to None.
        encoder (dict, optional): config of the encoder for the text of CLIPScore and RefCLIPScore; built when they
            are computed. It must be the one that made the features of the test set's store. Defaults to None: the
            tools take the encoder of the config's ``synthesis``.
        collect_device (str): see :class:`mmengine.evaluator.BaseMetric`. Defaults to 'cpu'.
        prefix (str, optional): put before the metrics' names. Defaults to None:
            they are 'CIDEr' and so on, which is what ``save_best`` names.
        collect_dir (str, optional): see :class:`mmengine.evaluator.BaseMetric`.

    Attributes:
        scored (ScoredCaptions): what the last evaluation found, on the main process, with what was skipped and why;
            ``None`` before.

    Raises:
        ValueError: for unknown metrics.
    """

    def __init__(
        self,
        metrics: Sequence[str | dict] = DEFAULT_METRICS,
        outfile_prefix: str | None = None,
        encoder: dict | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        # BaseMetric warns of an absent prefix; here it is meant.
        super().__init__(collect_device=collect_device, prefix=prefix or "caption", collect_dir=collect_dir)
        self.prefix = prefix
        self.scorers = build_scorers(metrics)
        self.outfile_prefix = outfile_prefix
        self.encoder = encoder
        self.scored: ScoredCaptions | None = None
        self._wants_feats = any("image_feats" in scorer.needs for scorer in self.scorers.values())

    def process(self, data_batch: Any, data_samples: Sequence[CaptionSample]) -> None:
        """Keep a batch's captions.

        Args:
            data_batch (Any): not used.
            data_samples (Sequence[CaptionSample]): with ``key``, ``pred_caption`` and ``references``; and with
                ``feat``, of real photos, where a metric wants it.

        Raises:
            ValueError: if a sample lacks its prediction or its references; they are named.
        """
        silent = [sample.key for sample in data_samples if sample.pred_caption is None]
        if silent:
            raise ValueError(f"{len(silent)} samples have no pred_caption: {few(silent)}; run predict on them first")
        bare = [sample.key for sample in data_samples if not sample.references]
        if bare:
            raise ValueError(
                f"{len(bare)} samples have no references: {few(bare)}; "
                "metrics need a dataset whose photos have captions"
            )
        for sample in data_samples:
            feat = None
            if self._wants_feats and sample.source == "real" and sample.feat is not None:
                feat = sample.feat.detach().cpu().float().numpy()
            self.results.append(
                _Result(sample.sample_id, sample.key, sample.pred_caption, list(sample.references), sample.domain, feat)
            )

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather all ranks' captions and score them.

        Args:
            size (int): number of images in the dataset.

        Returns:
            dict[str, float]: the metrics, on every rank.

        Raises:
            ValueError: on every rank, if an image is missing, repeated or unknown.
            StoreError: if the encoder is another one than made the images' features (ValueError on other ranks).
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
            except Exception as error:
                # the other ranks wait for an answer; let them fail with the same words
                broadcast_object_list([{"error": str(error)}])
                raise
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
                raise ValueError(f"{len(missing)} of {len(known)} images have no prediction: {few(missing)}")
            if unknown:
                raise ValueError(f"{len(unknown)} predictions are for images that the dataset lacks: {few(unknown)}")
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
                f"{len(repeated)} images were predicted more than once: {few(repeated)} "
                f"(on {ranks} rank(s), {padding} repeats would be the sampler's padding of {size} images)"
            )

    def _captions(self, unique: Mapping[str, _Result]) -> CaptionSet:
        """The gathered captions, with the images' features and the encoder where a metric wants them."""
        feats = encode = None
        store_encoder = (self.dataset_meta or {}).get("encoder")
        if self._wants_feats and store_encoder is not None:
            feats = {key: result.feat for key, result in unique.items() if result.feat is not None}
            if self.encoder is not None and len(feats) == len(unique):
                encode = text_encoder(self.encoder, store_encoder)
        predictions = {key: result.caption for key, result in unique.items()}
        return CaptionSet(predictions, {key: result.references for key, result in unique.items()}, feats, encode)

    def compute_metrics(self, results: Sequence[_Result]) -> dict[str, float]:
        """Score gathered results; the same sample twice counts once.

        Args:
            results (Sequence): what :meth:`process` kept, of all ranks.

        Returns:
            dict[str, float]: the averages; and the same for each domain, ``'DOMAIN/NAME'``.

        Raises:
            ValueError: if different samples have the same key, or there are none.
            StoreError: if the encoder is another one than made the images' features.
        """
        unique: dict[str, _Result] = {}
        for result in results:
            first = unique.setdefault(result.key, result)
            if first.sample_id != result.sample_id:
                raise ValueError(
                    f"the key {result.key!r} belongs to two samples, {first.sample_id} and {result.sample_id}; "
                    "keys must be unique for predictions to be joined with references"
                )
        captions = self._captions(unique)
        self.scored = scored = score_set(captions, self.scorers)
        for domain in sorted({r.domain for r in unique.values() if r.domain is not None}):
            own = captions.subset(key for key, result in unique.items() if result.domain == domain)
            of_domain = score_set(own, {n: s for n, s in self.scorers.items() if n not in scored.skipped})
            scored.averages |= {f"{domain}/{name}": value for name, value in of_domain.averages.items()}
        for name, why in scored.skipped.items():
            print_log(f"{name} skipped: {why}", logger="current", level=logging.WARNING)
        empty = [key for key, caption in captions.predictions.items() if not caption.strip()]
        if empty:
            print_log(f"{len(empty)} of {len(unique)} predicted captions are empty: {few(empty)}", logger="current")
        if self.outfile_prefix is not None:
            write_scored(f"{self.outfile_prefix}.json", captions, scored)
        return scored.averages


def write_scored(path: str, captions: CaptionSet, scored: ScoredCaptions) -> None:
    """Write averages, what was skipped and why, and each image's references, caption and scores, as json, by rename."""
    from synthcap_mm.files import write_json

    images = {
        key: {
            "references": captions.references[key],
            "hypothesis": captions.predictions[key],
            "scores": scored.per_image[key],
        }
        for key in captions.keys
    }
    about = {"metrics": scored.averages, "skipped": scored.skipped, "notes": scored.notes}
    write_json(path, {**about, "images": images})
