# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ends a command with exit status 3, on any side of the snapshot."""

from __future__ import annotations

from drgn_unaccepted.words import safe


class CommandError(Exception):
    """A command could not do what it was asked for; the text is the one line that the user sees."""


class TargetError(Exception):
    """The target cannot be read at all; the text is the one line that the user sees, with the mend in it."""


#: How the line begins that an exception ends with that nobody foresaw.
INTERNAL_ERROR = "internal error"


def internal_error(error: Exception) -> str:
    """An exception that nobody foresaw, in one line."""
    words = " ".join(str(error).split())
    return f"{INTERNAL_ERROR}: {type(error).__name__}: {safe(words)} (--debug shows where)"
