"""Making pairs: the synthesize loop."""

from synthcap_mm.pairs.curation import Curation
from synthcap_mm.pairs.factory import PairFactory, encode_photos, has_store

__all__ = ["Curation", "PairFactory", "encode_photos", "has_store"]
