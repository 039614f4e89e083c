# SPDX-License-Identifier: LGPL-2.1-or-later
"""A recording on a terminal: time goes down, addresses go across, unaccepted bytes and their rate are on the left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from drgn_unaccepted.answer.documents import HistoryAnswer, HistorySlice
from drgn_unaccepted.answer.head import source_name
from drgn_unaccepted.answer.map import Kind, level
from drgn_unaccepted.answer.truth import ACCEPTED, UNKNOWN
from drgn_unaccepted.model.ranges import Range, merge
from drgn_unaccepted.views.map import GLYPHS, Style, glyph, glyphs, legend, say
from drgn_unaccepted.words import count, size, span

_LEFT = 9 + 1 + 11 + 1 + 13  #: Columns before the addresses: time, unaccepted bytes, rate.
_GROUPS = 5  #: The most groups of neighbouring bins that a bar separates.

_LEGEND: tuple[tuple[Kind, str], ...] = ((ACCEPTED, "accepted"), (4, "half"), (8, "unaccepted"), (UNKNOWN, "unknown"))


def bins_for(width: int) -> int:
    """Bins that fit a terminal, with a bar between groups of neighbours."""
    return max(8, width - _LEFT - _GROUPS - 1)


def history_lines(answer: HistoryAnswer, style: Style) -> Iterator[str]:
    yield from say("source", source_name(answer), style)
    groups = merge((start, start + answer["bytes_per_bin"]) for start in answer["bins"])
    scale = f"1 character is {size(answer['bytes_per_bin'])}, {count(answer['units_per_bin'], 'unit')}; "
    scale += f"{count(answer['samples'], 'sample')} in {answer['elapsed_seconds']:.1f} seconds"
    yield from say("scale", scale, style)
    yield from say("across", ", ".join(span(start, end) for start, end in groups) or "no memory", style)
    yield ""
    yield f"{'seconds':>9} {'unaccepted':>11} {'rate':>13}"
    for now in answer["slices"]:
        rate = now["rate_bytes_per_second"]
        in_words = "" if rate is None else f"{rate / (1 << 20):.1f} MiB/s"
        left = f"{now['elapsed_seconds']:>9.1f} {size(now['unaccepted_bytes']):>11} {in_words:>13}"
        yield left + _strip(answer, now, groups, style)
    yield ""
    yield from legend([(glyph(of, style), GLYPHS[of].color, meaning) for of, meaning in _LEGEND], style)


def bin_kind(now: HistorySlice, index: int, bytes_per_bin: int) -> Kind:
    unaccepted = None if now["bins_unaccepted_bytes"] is None else now["bins_unaccepted_bytes"][index]
    return UNKNOWN if unaccepted is None else (level(unaccepted, bytes_per_bin) or ACCEPTED)


def _strip(answer: HistoryAnswer, now: HistorySlice, groups: Sequence[Range], style: Style) -> str:
    bin_ = answer["bytes_per_bin"]
    kinds = (bin_kind(now, index, bin_) for index in range(len(answer["bins"])))
    texts = [glyphs(islice(kinds, (end - start) // bin_), style) for start, end in groups]
    return f"|{('|' if len(groups) <= _GROUPS else '').join(texts)}|"
