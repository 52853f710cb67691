"""What makes pictures of captions."""

from synthcap_mm.models.generators.base import BaseGenerator, BaseRetriever
from synthcap_mm.models.generators.diffusers_generator import DiffusersGenerator
from synthcap_mm.models.generators.retrieval_generator import RetrievalGenerator

__all__ = ["BaseGenerator", "BaseRetriever", "DiffusersGenerator", "RetrievalGenerator"]
