"""The metrics of a captioner during training and test: kept by sample, gathered over ranks, computed once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, collect_results, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from synthcap_mm.errors import UserError, listed
from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.clip_scorers import text_encoder
from synthcap_mm.evaluation.nearest_caption import floor_of, nearest_captions
from synthcap_mm.evaluation.scored_captions import ScoredCaptions, score_set, write_scored
from synthcap_mm.evaluation.scorer import DEFAULT_METRICS, CaptionScorer, build_scorers
from synthcap_mm.evaluation.tokenizer import Tokenize
from synthcap_mm.options import Component, Model, Name
from synthcap_mm.registry import METRICS
from synthcap_mm.structures import CaptionSample


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

    Shares and scores are ×100. A metric may need more than the captions (Java, the
    images' features, an encoder, …). Metrics that cannot be computed are listed as
    skipped, with the reason, in the log and the json. docs/metrics.md has all names.

    The captions of all ranks are gathered by the images' keys. The samples that a distributed
    sampler adds to make the ranks' shares equal (``-size % ranks`` of them) count
    once. A missing, repeated or unknown image is an error, never an average over
    fewer. The message names the images where the dataset's ``metainfo['keys']`` lists them, as
    this project's datasets do.

    Where samples have a ``domain`` (NoCaps), each domain is also scored as a set of its own
    (``'in-domain/CIDEr'``); CIDEr then counts words in that domain only. The names without a
    domain are of all images ("entire").

    With ``floor`` each metric has another beside it, ``'nearest/CIDEr'``: that of the training caption nearest to each
    image, which needs no training. A captioner that is worth its training is above it.

    Args:
        metrics (Sequence[str | dict]): names, or ``dict(type=NAME, ...)`` where a metric has options. Defaults to
            ``('BLEU', 'ROUGE_L', 'CIDEr', 'length')``, which needs no Java.
        outfile_prefix (str, optional): write the references, the prediction and
            the scores of each image to ``{outfile_prefix}.json`` (on the main
            process, by rename). Defaults to None.
        encoder (dict, optional): config of the encoder for the text of CLIPScore and RefCLIPScore; built when they
            are computed. It must be the one that made the features of the test set's store. Defaults to None: the
            tools take the encoder of the config's ``synthesis``.
        tokenize (str): ``'ptb'``: BLEU, ROUGE-L, CIDEr and the like count words, as in the COCO evaluation;
            ``'char'``: characters, for Chinese, Japanese, Thai and other scripts that put no blanks between words.
            Defaults to ``'ptb'``.
        floor (str, optional): store whose training captions the nearest one is taken from, by the image's feature,
            which must be of the store's encoder. Defaults to None: no floor; the tools that test give
            ``model.store``, or the memory that takes its place.
        collect_device (str): see :class:`mmengine.evaluator.BaseMetric`. Defaults to 'cpu'.
        prefix (str, optional): put before the metrics' names. Defaults to None:
            they are 'CIDEr' and so on, which is what ``save_best`` names.
        collect_dir (str, optional): see :class:`mmengine.evaluator.BaseMetric`.

    Attributes:
        scored (ScoredCaptions): what the last evaluation found, on the main process, with what was skipped and why;
            ``None`` before.

    Raises:
        UserError: for unknown metrics.
    """

    def __init__(
        self,
        metrics: Sequence[str | Annotated[dict, Component("CAPTION_SCORERS")]] = DEFAULT_METRICS,
        outfile_prefix: str | None = None,
        encoder: Model | None = None,
        tokenize: Tokenize = "ptb",
        floor: Name | None = None,
        collect_device: Literal["cpu", "gpu"] = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        # BaseMetric warns if there is no prefix; here an empty one is allowed.
        super().__init__(collect_device=collect_device, prefix=prefix or "caption", collect_dir=collect_dir)
        self.prefix = prefix
        self.scorers = build_scorers(metrics)
        self.outfile_prefix = outfile_prefix
        self.encoder = encoder
        self.tokenize = tokenize
        self.floor = floor
        self.scored: ScoredCaptions | None = None
        self._told: set[tuple[str, str]] = set()
        self._wants_feats = any("image_feats" in scorer.needs for scorer in self.scorers.values())

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        """What a loop tells of its dataset when it is built, so that what cannot be scored is refused by then.

        Raises:
            UserError: if images have no reference with words, as the dataset's ``metainfo['wordless']`` lists them.
        """
        wordless = (dataset_meta or {}).get("wordless")
        if wordless:
            raise UserError(
                f"{len(wordless)} images have no reference with words, so they have no score: {listed(wordless)}. "
                "Leave them out of the captions or photos, and make the store again"
            )
        self._dataset_meta = dataset_meta

    def process(self, data_batch: Any, data_samples: Sequence[CaptionSample]) -> None:
        """Keep a batch's captions.

        Args:
            data_batch (Any): not used.
            data_samples (Sequence[CaptionSample]): with ``key``, ``pred_caption`` and ``references``; and with
                ``feat``, of photos or drawings, where a metric or the floor wants it.
        """
        for sample in data_samples:
            feat = None
            if (self._wants_feats or self.floor) and sample.source != "text" and sample.feat is not None:
                feat = sample.feat.detach().cpu().float().numpy()
            self.results.append(
                _Result(
                    sample.sample_id,
                    sample.key,
                    sample.pred_caption,
                    list(sample.references or ()),
                    sample.domain,
                    feat,
                )
            )

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather all ranks' captions and score them.

        Args:
            size (int): number of images in the dataset.

        Returns:
            dict[str, float]: the metrics, on every rank.

        Raises:
            UserError: on every rank, if an image is missing, repeated or unknown, or has no references; if the
                encoder differs from the one that made the images' features.
        """
        ranks = get_world_size()
        # One item a rank: collect_results would cut a longer list to `size` before repeats can be found.
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
                # the other ranks are waiting: let them fail with the same message
                broadcast_object_list([{"error": str(error)}])
                raise
        broadcast_object_list(outcome)
        if "error" in outcome[0]:
            raise UserError(outcome[0]["error"])
        return outcome[0]["metrics"]

    def _check_complete(self, results: Sequence[_Result], size: int, ranks: int) -> None:
        """Every image of the dataset once, but for the padding of a distributed sampler."""
        counts = Counter((result.sample_id, result.key) for result in results)
        known = (self.dataset_meta or {}).get("keys")
        if known is not None:
            seen, known = {key for _, key in counts}, set(known)
            missing, unknown = sorted(known - seen), sorted(seen - known)
            if missing:
                raise UserError(f"{len(missing)} of {len(known)} images have no prediction: {listed(missing)}")
            if unknown:
                raise UserError(f"{len(unknown)} predictions are for images that the dataset lacks: {listed(unknown)}")
        if len(counts) != size:
            raise UserError(
                f"there are predictions for {len(counts)} images, but the dataset has {size}: "
                "an average over only some of them is not comparable"
            )
        repeated = [key for (_, key), count in counts.items() if count > 1]
        # the sampler repeats this many images so that all ranks get equally many
        padding = -size % ranks
        if len(results) - len(counts) > padding:
            raise UserError(
                f"{len(repeated)} images were predicted more than once: {listed(repeated)} "
                f"(on {ranks} rank(s), {padding} repeats would be the sampler's padding of {size} images)"
            )

    def _captions(self, unique: Mapping[str, _Result]) -> CaptionSet:
        """The gathered captions, with the images' features and the encoder where a metric wants them."""
        feats = encode = None
        store_encoder = (self.dataset_meta or {}).get("encoder")
        if self._wants_feats and store_encoder is not None:  # which only stores of real photos tell
            feats = {key: result.feat for key, result in unique.items() if result.feat is not None}
            if self.encoder is not None and len(feats) == len(unique):
                encode = text_encoder(self.encoder, store_encoder)
        predictions = {key: result.caption for key, result in unique.items()}
        references = {key: result.references for key, result in unique.items()}
        return CaptionSet(predictions, references, feats, encode, self.tokenize)

    def _nearest(self, unique: Mapping[str, _Result]) -> dict[str, str]:
        """The training caption nearest to each image; empty without a floor."""
        if self.floor is None:
            return {}
        without = [key for key, result in unique.items() if result.feat is None]
        if without:
            print_log(
                f"no floor of the nearest training captions: {len(without)} of {len(unique)} images have no feature: "
                f"{listed(without)}",
                logger="current",
                level=logging.WARNING,
            )
            return {}
        images = [CaptionSample(r.sample_id, key, feat=torch.from_numpy(r.feat)) for key, r in unique.items()]
        return nearest_captions(self.floor, images)

    def compute_metrics(self, results: Sequence[_Result]) -> dict[str, float]:
        """Score gathered results; the same sample twice counts once.

        Args:
            results (Sequence): what :meth:`process` kept, of all ranks.

        Returns:
            dict[str, float]: the averages; the same for each domain, ``'DOMAIN/NAME'``; and the floors of all.

        Raises:
            UserError: see :meth:`evaluate`; also if different samples have the same key.
        """
        unique = _unique(results)
        captions = self._captions(unique)
        domains: dict[str, list[str]] = {}
        for key, result in unique.items():
            if result.domain is not None:
                domains.setdefault(result.domain, []).append(key)
        self.scored = scored = _by_domain(captions, domains, self.scorers)
        scored.nearest = self._nearest(unique)
        if scored.nearest:
            scorers = {name: scorer for name, scorer in self.scorers.items() if name not in scored.skipped}
            floor = _by_domain(captions.with_predictions(scored.nearest), domains, scorers)
            scored.averages |= {floor_of(name): value for name, value in floor.averages.items()}
        for name, why in [*((n, f"skipped: {w}") for n, w in scored.skipped.items()), *scored.warnings.items()]:
            if (name, why) not in self._told:  # each validation would say it again
                self._told.add((name, why))
                print_log(f"{name} {why}", logger="current", level=logging.WARNING)
        if captions.empty:
            print_log(
                f"{len(captions.empty)} of {len(unique)} predicted captions are empty: {listed(captions.empty)}",
                logger="current",
            )
        if self.outfile_prefix is not None:
            write_scored(f"{self.outfile_prefix}.json", captions, scored)
        return scored.averages


def _unique(results: Sequence[_Result]) -> dict[str, _Result]:
    """The results by key."""
    unique: dict[str, _Result] = {}
    for result in results:
        first = unique.setdefault(result.key, result)
        if first.sample_id != result.sample_id:
            raise UserError(
                f"the key {result.key!r} belongs to two samples, {first.sample_id} and {result.sample_id}; "
                "keys must be unique for predictions to be joined with references"
            )
    return unique


def _by_domain(
    captions: CaptionSet, domains: Mapping[str, Sequence[str]], scorers: Mapping[str, CaptionScorer]
) -> ScoredCaptions:
    """All captions' scores, and each domain's averages and warnings by ``'DOMAIN/NAME'``."""
    scored = score_set(captions, scorers)
    scorers = {name: scorer for name, scorer in scorers.items() if name not in scored.skipped}
    for domain, keys in sorted(domains.items()):
        own = score_set(captions.subset(keys), scorers)
        scored.averages |= {f"{domain}/{name}": value for name, value in own.averages.items()}
        scored.warnings |= {f"{domain}/{name}": why for name, why in own.warnings.items()}
    return scored
