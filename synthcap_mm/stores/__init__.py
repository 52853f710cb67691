"""The one on-disk format: a folder of Arrow tables in shards, and a manifest."""

from synthcap_mm.files import write_atomically
from synthcap_mm.stores.errors import OtherSettingsError, StoreError, StoreMissingError
from synthcap_mm.stores.lock import StoreLock
from synthcap_mm.stores.store import Store
from synthcap_mm.stores.writer import StoreWriter

__all__ = [
    "OtherSettingsError",
    "Store",
    "StoreError",
    "StoreLock",
    "StoreMissingError",
    "StoreWriter",
    "write_atomically",
]
