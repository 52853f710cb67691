"""The one on-disk format: tables of shards that are named by what made them, and views of them."""

from synthcap_mm.store.errors import StoreError
from synthcap_mm.store.store import Store
from synthcap_mm.store.tables import Table

__all__ = ["Store", "StoreError", "Table"]
