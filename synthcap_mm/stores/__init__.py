"""The one on-disk format: a folder of Arrow tables in shards, and a manifest."""

from synthcap_mm.stores.shards import write_atomically
from synthcap_mm.stores.store import Store, StoreError, StoreMissingError
from synthcap_mm.stores.writer import StoreWriter

__all__ = ["Store", "StoreError", "StoreMissingError", "StoreWriter", "write_atomically"]
