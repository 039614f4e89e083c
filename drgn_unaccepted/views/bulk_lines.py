# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve -f`` with numpy: the text of a block, with the state of each address at the end of its line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drgn_unaccepted.questions.bulk_lines import Lines


def ended(lines: Lines, endings: Sequence[bytes]) -> str:
    """The text with ``endings[kind]`` in place of the newline of each line.

    :param endings: fewer than there are control characters before the newline
    """
    here = [kind for kind in range(len(endings)) if (lines.kinds == kind).any()]
    if len({len(endings[kind]) for kind in here}) > 1:
        return _marked(lines, here, endings)
    if lines.width is None:
        return _patched(lines, here, endings)
    return _stacked(lines, lines.width, here, endings)


def _marked(lines: Lines, here: Sequence[int], endings: Sequence[bytes]) -> str:
    """A character for each kind, and then its ending for the character; neither is in an address."""
    marked = bytearray(lines.text)
    np.frombuffer(marked, np.uint8)[lines.ends] = lines.kinds
    for kind in here:
        marked = marked.replace(bytes((kind,)), endings[kind])
    return marked.decode("ascii")


def _patched(lines: Lines, here: Sequence[int], endings: Sequence[bytes]) -> str:
    """The same ending for all, and then the characters that are others."""
    first = endings[here[0]]
    patched = bytearray(lines.text).replace(b"\n", first)
    characters = np.frombuffer(patched, np.uint8)
    starts = lines.ends + np.arange(len(lines.ends)) * (len(first) - 1)
    for column in range(len(first)):
        of_kind = bytes(endings[kind][column] if kind in here else 0 for kind in range(len(endings)))
        if any(of_kind[kind] != first[column] for kind in here):
            characters[starts + column] = np.frombuffer(of_kind, np.uint8).take(lines.kinds)
    return patched.decode("ascii")


def _stacked(lines: Lines, width: int, here: Sequence[int], endings: Sequence[bytes]) -> str:
    """Two columns: the lines, and their endings."""
    length = len(endings[here[0]])
    of_kind = np.array([endings[kind] if kind in here else b"" for kind in range(len(endings))], f"S{length}")
    stacked = np.empty(len(lines.ends), [("line", f"S{width - 1}"), ("ending", f"S{length}")])
    stacked["line"] = np.frombuffer(lines.text, [("line", f"S{width - 1}"), ("newline", "S1")])["line"]
    stacked["ending"] = of_kind.take(lines.kinds)
    return str(stacked.view(np.uint8).data, "ascii")
