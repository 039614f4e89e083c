# SPDX-License-Identifier: LGPL-2.1-or-later
"""The exceptions that end a command, and how each becomes one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

from drgn_unaccepted.words import safe

INTERNAL_ERROR = "internal error"  #: The beginning of the line that reports a defect of this program.


class CommandError(Exception):
    """A command cannot do what it was asked for; the text is the one line that the user sees."""


class TargetError(Exception):
    """The target cannot be read at all; the text is the one line that the user sees, with the fix in it."""


class SnapshotFileError(Exception):
    """A snapshot or recording cannot be read or written; the text is the reason, in one line."""


def one_line(error: BaseException, path: Optional[str] = None) -> str:
    """The words of an exception, about the file ``path``, on one line that is harmless to a terminal."""
    words: object = error.strerror if isinstance(error, OSError) and error.strerror else error
    if isinstance(error, KeyError) and error.args:
        words = error.args[0]  # str() of a KeyError, for example drgn.ObjectNotFoundError, is a repr
    text = safe(" ".join(str(words).split()))
    return text if path is None else f"{safe(path)}: {text}"


@contextmanager
def concerning(path: Optional[str] = None) -> Iterator[None]:
    """Errors of files in this block end the command, in one line.

    :param path: what they are about; by default the file that they name
    :raises CommandError: instead of them
    """
    try:
        yield
    except (OSError, SnapshotFileError) as error:
        raise CommandError(one_line(error, path or getattr(error, "filename", None))) from None
