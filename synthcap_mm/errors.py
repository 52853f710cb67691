"""What a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A fault in what the user gave: a file, a setting, a store. The message says what is wrong and what to do.

    Every command prints it as a sentence, without a traceback, and ends with status 1.
    """


class NotYet(UserError):
    """Something that other workers make is still missing; the same command goes on later. Ends with status 75."""


def near(name: str, known: Iterable[str], count: int = 4) -> list[str]:
    """The known names that somebody who typed ``name`` may have meant, the likeliest first.

    Args:
        name: what was typed.
        known: the names that there are. Capitals do not count.
        count: most names. Default 4.
    """
    by_fold = {one.lower(): one for one in known}
    return [by_fold[match] for match in difflib.get_close_matches(name.lower(), by_fold, n=count)]


def listed(names: Iterable[Any], count: int = 5) -> str:
    """The first few names for a message, and how many there are in all.

    Args:
        names: anything that has a text; of a long text beginning and end are shown.
        count: how many are shown. Default 5.
    """
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(shown(str(name)) for name in names[:count]) + more


def shown(text: str) -> str:
    """A text of a file or an option in a message: whole up to 100 characters, of a longer one beginning and end."""
    return text if len(text) <= 100 else f"{text[:60]}…{text[-39:]}"
