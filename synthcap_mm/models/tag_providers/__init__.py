"""What names the objects of a picture."""

from synthcap_mm.models.tag_providers.base import BaseTagProvider
from synthcap_mm.models.tag_providers.caption_entities import CaptionEntities
from synthcap_mm.models.tag_providers.clip_tag_provider import CLIPTagProvider
from synthcap_mm.models.tag_providers.mmdet_tag_provider import MMDetTagProvider
from synthcap_mm.models.tag_providers.retrieved_entities import RetrievedEntities

__all__ = ["BaseTagProvider", "CLIPTagProvider", "CaptionEntities", "MMDetTagProvider", "RetrievedEntities"]
