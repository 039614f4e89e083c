# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ends a command with exit status 3, on any side of the snapshot."""

from __future__ import annotations


class CommandError(Exception):
    """A command could not do what it was asked for; the text is the one line that the user sees."""


class TargetError(Exception):
    """The target cannot be read at all; the text is the one line that the user sees, with the mend in it."""
