"""Making pairs: the synthesize loop."""

from synthcap_mm.pairs.curation import Curation
from synthcap_mm.pairs.factory import STAGES, PairFactory, has_store
from synthcap_mm.pairs.photos import encode_photos

__all__ = ["STAGES", "Curation", "PairFactory", "encode_photos", "has_store"]
