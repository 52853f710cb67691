"""A store that cannot be used as it is."""

from synthcap_mm.errors import UserError


class StoreError(UserError):
    """A store that is missing, damaged, or made by another recipe; the message says what to do."""
