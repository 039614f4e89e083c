# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve -f`` with numpy: the text of a block, with the state of each address at the end of its line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drgn_unaccepted.answer.bulk_lines import Lines


def ended(lines: Lines, endings: Sequence[bytes]) -> str:
    """The text with ``endings[kind]`` in place of the newline of each line.

    :param endings: fewer than there are control characters before the newline
    """
    here = [kind for kind in range(len(endings)) if (lines.kinds == kind).any()]
    if lines.width is not None and len({len(endings[kind]) for kind in here}) == 1:
        return _stacked(lines, lines.width, here, endings)
    # A character for each kind, and then its ending for the character; neither is in an address.
    marked = bytearray(lines.text)
    np.frombuffer(marked, np.uint8)[lines.ends] = lines.kinds
    for kind in here:
        marked = marked.replace(bytes((kind,)), endings[kind])
    return marked.decode("ascii")


def _stacked(lines: Lines, width: int, here: Sequence[int], endings: Sequence[bytes]) -> str:
    """Two columns, the lines and their endings, in a third of the time."""
    length = len(endings[here[0]])
    of_kind = np.array([endings[kind] if kind in here else b"" for kind in range(len(endings))], f"S{length}")
    stacked = np.empty(len(lines.ends), [("line", f"S{width - 1}"), ("ending", f"S{length}")])
    stacked["line"] = np.frombuffer(lines.text, [("line", f"S{width - 1}"), ("newline", "S1")])["line"]
    stacked["ending"] = of_kind.take(lines.kinds)
    return str(stacked.view(np.uint8).data, "ascii")
