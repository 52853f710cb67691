"""What names the objects of a picture."""

from synthcap_mm.models.tag_providers.base import BaseTagProvider
from synthcap_mm.models.tag_providers.clip_tag_provider import CLIPTagProvider
from synthcap_mm.models.tag_providers.mmdet_tag_provider import MMDetTagProvider

__all__ = ["BaseTagProvider", "CLIPTagProvider", "MMDetTagProvider"]
