"""Datasets, and the sources of captions and photos that stores are made from."""

from synthcap_mm.datasets import captions, photos
from synthcap_mm.datasets.caption_eval_dataset import CaptionEvalDataset
from synthcap_mm.datasets.synth_pair_dataset import SynthPairDataset

__all__ = ["CaptionEvalDataset", "SynthPairDataset", "captions", "photos"]
