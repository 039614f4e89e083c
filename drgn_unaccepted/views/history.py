# SPDX-License-Identifier: LGPL-2.1-or-later
"""A recording on a terminal: time goes down, addresses go across, unaccepted bytes and their rate stand on the left."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Optional

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.views.map import ACCEPTED, GLYPHS, UNKNOWN, Kind, Style, about, glyph, level, paint, say
from drgn_unaccepted.words import count, size, span

#: Columns before the addresses: time, unaccepted bytes, rate.
_LEFT = 9 + 1 + 11 + 1 + 13

#: Groups of bins that are told apart by a bar.
_GROUPS = 5


def bins_for(width: int) -> int:
    """Bins that fit a terminal, with a bar between groups that are not neighbours."""
    return max(8, width - _LEFT - _GROUPS - 1)


def history_lines(answer: Document, style: Style) -> Iterator[str]:
    """The heat map as lines."""
    source = answer["source"] + (", exact" if answer["exact"] else ", not exact")
    yield from say("source", source, style)
    groups = _groups(answer)
    parts = [f"1 character is {size(answer['bytes_per_bin'])}, {count(answer['units_per_bin'], 'unit')}"]
    parts.append(f"{count(answer['samples'], 'sample')} in {answer['elapsed_seconds']:.1f} seconds")
    yield from say("scale", "; ".join(parts), style)
    yield from say("across", ", ".join(span(start, end) for start, end in groups) or "no memory", style)
    yield ""
    yield f"{'seconds':>9} {'unaccepted':>11} {'rate':>13}"
    for now in answer["slices"]:
        yield (
            f"{now['elapsed_seconds']:>9.1f} {_bytes(now['unaccepted_bytes']):>11} {_rate(now):>13}"
            f"{_strip(answer, now, groups, style)}"
        )
    yield ""
    legend = [(paint(_sample(of, style), GLYPHS[of].color, style), text) for of, text in _LEGEND]
    yield "legend  " + "  ".join(f"{shown} {text}" for shown, text in legend)


_LEGEND: tuple[tuple[Kind, str], ...] = ((ACCEPTED, "accepted"), (4, "half"), (8, "unaccepted"), (UNKNOWN, "unknown"))


def _sample(of: Kind, style: Style) -> str:
    text = glyph(of, style)
    return f"'{text}'" if text == " " else text


def bin_kind(now: Document, index: int, bytes_per_bin: int) -> Kind:
    """What a bin of a slice of time shows as."""
    unaccepted = None if now["bins_unaccepted_bytes"] is None else now["bins_unaccepted_bytes"][index]
    return UNKNOWN if unaccepted is None else (level(unaccepted, bytes_per_bin) or ACCEPTED)


def _groups(answer: Document) -> list[tuple[int, int]]:
    """Bins that are neighbours, as ranges."""
    groups: list[tuple[int, int]] = []
    for start in answer["bins"]:
        if groups and groups[-1][1] == start:
            groups[-1] = (groups[-1][0], start + answer["bytes_per_bin"])
        else:
            groups.append((start, start + answer["bytes_per_bin"]))
    return groups


def _strip(answer: Document, now: Document, groups: list[tuple[int, int]], style: Style) -> str:
    kinds = [bin_kind(now, index, answer["bytes_per_bin"]) for index in range(len(answer["bins"]))]
    text, at = "|", 0
    bar = "|" if len(groups) <= _GROUPS else ""
    for start, end in groups:
        length = (end - start) // answer["bytes_per_bin"]
        for color, run in groupby(kinds[at : at + length], lambda of: GLYPHS[of].color):
            text += paint("".join(glyph(of, style) for of in run), color, style)
        text += bar
        at += length
    return text if bar else text + "|"


def _bytes(nbytes: Optional[int]) -> str:
    return "unknown" if nbytes is None else about(nbytes)


def _rate(now: Document) -> str:
    rate = now["rate_bytes_per_second"]
    return "" if rate is None else f"{rate / (1 << 20):.1f} MiB/s"
