"""synthcap_mm: image captioners trained from captions alone, the MMEngine way."""

from synthcap_mm.version import __version__

__all__ = ["__version__"]
