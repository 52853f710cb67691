"""Text in any locale: files are UTF-8, and what a terminal cannot show is printed as an escape."""

from __future__ import annotations

import contextlib
import io
import locale
import sys
from collections.abc import Iterator

#: Names of a locale with UTF-8, as Python's own coercion tries them (PEP 538).
_WITH_UTF8 = ("C.UTF-8", "C.utf8", "UTF-8")


@contextlib.contextmanager
def any_text_is_written() -> Iterator[None]:
    """While in the context, libraries write log files in UTF-8, and to stdout without errors, whatever the locale.

    MMEngine's logs have the encoding of the locale: with ``PYTHONUTF8=0 LC_ALL=C``, or in a locale such as ISO-8859-1,
    a caption with other characters would be an error.
    """
    before, out = locale.setlocale(locale.LC_CTYPE), sys.stdout
    errors = out.errors if isinstance(out, io.TextIOWrapper) else None
    if errors is not None:
        out.reconfigure(errors="backslashreplace")
    if locale.nl_langinfo(locale.CODESET).lower() != "utf-8":
        _set_utf8()
    try:
        yield
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
        if errors is not None:
            out.reconfigure(errors=errors)


def _set_utf8() -> None:
    for name in _WITH_UTF8:
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, name)
            return
