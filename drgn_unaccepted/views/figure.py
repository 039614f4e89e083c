# SPDX-License-Identifier: LGPL-2.1-or-later
"""``map`` and recordings as figures for papers and tickets, drawn by matplotlib (the optional extra ``pictures``)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, TypeVar

from drgn_unaccepted.answer.documents import HistoryAnswer, MapAnswer, MapRow
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.views.history import bin_kind
from drgn_unaccepted.views.map import (
    ACCEPTED,
    GLYPHS,
    GUARD,
    HOLE,
    OUTSIDE,
    RESERVED,
    UNKNOWN,
    Kind,
    kind,
    unaccepted,
)
from drgn_unaccepted.words import about, safe, share, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

A = TypeVar("A")

FORMATS = ("svg", "png")

#: Bins of a row: a row of 1 GiB shows each unit.
COLUMNS = 512

#: Okabe and Ito's orange on a light blue, mixed for the levels between. The report has the same colours.
_UNACCEPTED, _ACCEPTED = (0xE6, 0x9F, 0x00), (0xA8, 0xCF, 0xE8)
_COLORS: dict[Kind, str] = {
    OUTSIDE: "#d9e8f2",
    UNKNOWN: "#c9bfe3",
    RESERVED: "#a9b0b9",
    HOLE: "#f0f1f3",
    GUARD: "#d4b45c",
}
_EFI = {**dict.fromkeys((1, 2), "#56b4e9"), **dict.fromkeys((3, 4), "#7cc4ad"), **dict.fromkeys((5, 6), "#cc79a7")}
_EFI.update({0: "#a9b0b9", 7: "#e2ddd3", 8: "#8c1c13", 9: "#f0e442", 10: "#c9b300", 11: "#6b7480", 15: "#f5dca5"})
_E820 = {1: "#e2ddd3", 2: "#a9b0b9", 3: "#f0e442", 4: "#c9b300", 5: "#8c1c13", 128: "#56b4e9"}
_OTHER = "#8f7dbd"
_ZONES = ("#c8dcc6", "#94bd91")

_FAINT = "#566270"

#: Heights, in units of the bitmap's bar: the bar, a lane below it, from lane to lane, between rows, for rows left out.
_BAR, _LANE, _STEP, _FREE, _GAP = 1.0, 0.22, 0.28, 0.45, 0.8
_TICK = 0.14

#: Width that is visible, in widths of a row.
_TICK_WIDTH = 0.007

#: With more rows there is no room for the lanes.
_ROWS_WITH_LANES = 20


def image(drawing: Callable[[A], Figure], answer: A, format_: str) -> bytes:
    """A figure as an image file. The same answer gives the same bytes with the same matplotlib.

    :param drawing: :func:`draw` for the answer of ``map``, :func:`draw_history` for a recording
    :param format_: one of :data:`FORMATS`
    :raises CommandError: matplotlib cannot be imported
    """
    try:
        import matplotlib
    except ImportError as error:
        if error.name != "matplotlib":
            raise CommandError(f"figures need matplotlib, which cannot be imported: {error}") from None
        raise CommandError("figures need matplotlib: pip install 'drgn-unaccepted[pictures]'") from None
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "drgn-unaccepted", "svg.fonttype": "none", "font.size": 9}):
        metadata: dict[str, Any] = {"Date": None} if format_ == "svg" else {"Software": None}
        drawing(answer).savefig(file, format=format_, metadata=metadata, dpi=160)
    return file.getvalue()


def draw(answer: MapAnswer) -> Figure:
    """The answer of ``map`` as a figure, also for notebooks and for papers with a layout of their own."""
    from matplotlib.figure import Figure

    lanes = _lanes(answer) if len(answer["rows"]) <= _ROWS_WITH_LANES else []
    pitch = _BAR + len(lanes) * _STEP + _FREE
    gaps = {gap["end"]: gap for gap in answer["left_out"]}
    height = len(answer["rows"]) * pitch + len(gaps) * _GAP
    figure = Figure(figsize=(10, 0.26 * height + 1.5), layout="constrained")
    axes = figure.add_subplot()
    y = 0.0
    for row in answer["rows"]:
        gap = gaps.get(row["start"])
        if gap is not None:
            words = f"{about(gap['end'] - gap['start'])} without RAM"
            _text(axes, 0, y + _GAP / 2 - _FREE / 2, words, color=_FAINT, size=7.5, va="center")
            y += _GAP
        _row(axes, answer, row, y)
        for number, lane in enumerate(lanes):
            _lane(axes, answer, row, lane, y + _BAR + 0.08 + number * _STEP)
        y += pitch
    _axis(axes, answer, y - _FREE)
    _words(axes, answer)
    _legend(figure, answer, lanes)
    return figure


def _row(axes: Axes, answer: MapAnswer, row: MapRow, y: float) -> None:
    columns = answer["bins_per_row"]
    at = 0
    for of, run in groupby(kind(row, index, answer["bytes_per_bin"]) for index in range(columns)):
        length = len(list(run))
        where = [(at / columns, length / columns)]
        axes.broken_barh(where, (y, _BAR), facecolor=_color(of), linewidth=0)
        if of == 1:
            # A hairline is easily missed: a mark above points at the least unaccepted.
            wide = max(length / columns, _TICK_WIDTH)
            middle = (at + length / 2) / columns
            axes.broken_barh([(middle - wide / 2, wide)], (y - _TICK, _TICK), facecolor=_color(8), linewidth=0)
        at += length
    start = f"{row['start']:#x}"
    _text(axes, -0.006, y + _BAR / 2, start, ha="right", va="center", family="monospace", size=8)
    said = share(sum(row["unaccepted_bytes"]), sum(row["ram_bytes"])) or "no RAM"
    _text(axes, 1.006, y + _BAR / 2, said, va="center", size=7.5, color=_FAINT)


def _lane(axes: Axes, answer: MapAnswer, row: MapRow, lane: _Lane, top: float) -> None:
    _text(axes, -0.006, top + _LANE / 2, lane.name, size=5.5, color=_FAINT, ha="right", va="center")
    row_bytes = answer["bytes_per_bin"] * answer["bins_per_row"]
    for start, end, color, name in lane.segments:
        low, high = max(start - row["start"], 0) / row_bytes, min(end - row["start"], row_bytes) / row_bytes
        if low >= high:
            continue
        axes.broken_barh([(low, high - low)], (top, _LANE), facecolor=color, linewidth=0)
        if lane.named and high - low > 0.012 * len(name):
            _text(axes, low + 0.003, top + _LANE / 2, name, size=5.5, va="center")


def _axis(axes: Axes, answer: MapAnswer, bottom: float) -> None:
    row_bytes = answer["bytes_per_bin"] * answer["bins_per_row"]
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom, -0.2)
    axes.set_yticks([])
    axes.set_xticks([tick / 8 for tick in range(8)])
    axes.set_xticklabels([f"+{about(row_bytes * tick // 8) if tick else 0}" for tick in range(8)], size=7.5, ha="left")
    axes.xaxis.tick_top()
    axes.tick_params(length=3, pad=2)
    for side in axes.spines.values():
        side.set_visible(False)


def _words(axes: Axes, answer: MapAnswer) -> None:
    ram, release = answer["totals"]["ram_bytes"], answer["target"]["release"]
    source = f"source: {answer['source']}, {'exact' if answer['exact'] else 'not exact'}"
    title = f"{unaccepted(answer, about, of=f' of {about(ram)} RAM')}; {source}"
    axes.set_title(title, loc="left", size=11, parse_math=False)
    words = [f"Linux {safe(release)}"] if release is not None else []
    words.append(f"a row is {about(answer['bytes_per_bin'] * answer['bins_per_row'])}")
    words.append(f"a unit is {about(answer['unit_size'])}")
    if answer["covered"] is not None:
        words.append(f"the bitmap covers {span(*answer['covered'])}")
    axes.set_xlabel("; ".join(words), loc="left", size=8, color=_FAINT, parse_math=False)


def _legend(figure: Figure, answer: MapAnswer, lanes: Sequence[_Lane]) -> None:
    seen = {kind(row, i, answer["bytes_per_bin"]) for row in answer["rows"] for i in range(answer["bins_per_row"])}
    entries = {GLYPHS[8].meaning: _color(8)}
    if seen.intersection(range(1, 8)):
        entries["partly unaccepted, the less the bluer"] = _color(4)
    order = [ACCEPTED, OUTSIDE, UNKNOWN, GUARD, RESERVED, HOLE]
    entries.update({GLYPHS[of].meaning: _color(of) for of in order if of in seen or of == ACCEPTED})
    for lane in lanes:
        if not lane.named:
            entries.update({f"{lane.name} {name}": color for _, _, color, name in lane.segments})
    _patches(figure, entries)


def _patches(figure: Figure, entries: Mapping[str, str]) -> None:
    """A legend of colours by what they mean."""
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=color, label=text) for text, color in entries.items()]
    figure.legend(handles=patches, loc="outside lower left", ncols=5, frameon=False, fontsize=6.5)


class _Lane(NamedTuple):
    name: str
    #: ``(start, end, colour, what it is)``.
    segments: Sequence[tuple[int, int, str, str]]
    #: Whether names are written into the lane instead of the legend.
    named: bool


def _lanes(answer: MapAnswer) -> list[_Lane]:
    maps = answer["lanes"]
    found = []
    for name, entries, colors in (("EFI", maps["efi"], _EFI), ("e820", maps["e820"], _E820)):
        if entries is not None:
            segments = [(one["start"], one["end"], colors.get(one["type"], _OTHER), one["name"]) for one in entries]
            found.append(_Lane(name, segments, False))
    if maps["zones"] is not None:
        zones = [
            (zone["start"], zone["end"], _ZONES[number % 2], f"node {zone['node']} {safe(zone['name'])}")
            for number, zone in enumerate(maps["zones"])
        ]
        found.append(_Lane("zones", zones, True))
    return found


def _color(of: Kind) -> str:
    if of == ACCEPTED:
        of = 0
    if isinstance(of, int):
        # From a third to two thirds: one unit in a thousand looks unlike none, and all but one unlike all.
        mixed = {0: 0, 8: 18}.get(of, of + 5)
        parts: Iterable[int] = (a + (b - a) * mixed // 18 for a, b in zip(_ACCEPTED, _UNACCEPTED))
        return "#" + "".join(f"{part:02x}" for part in parts)
    return _COLORS[of]


def _text(axes: Axes, x: float, y: float, text: str, **how: Any) -> None:
    # matplotlib would take a $ in a name from the target for mathematics.
    axes.text(x, y, text, parse_math=False, **how)


def draw_history(answer: HistoryAnswer) -> Figure:
    """A recording as a figure: addresses by time; below them the unaccepted bytes, and those accepted in a second."""
    from matplotlib.figure import Figure

    slices = answer["slices"]
    edges = [slices[0]["elapsed_seconds"] - 0.01 * (answer["elapsed_seconds"] or 1)]
    edges += [now["elapsed_seconds"] for now in slices]
    figure = Figure(figsize=(10, 5.7), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(5, 1.6, 1.2))
    seen = _heat(top, answer, edges)
    source = f"source: {answer['source']}, {'exact' if answer['exact'] else 'not exact'}"
    title = f"Unaccepted memory over {answer['elapsed_seconds']:.1f} seconds, {answer['samples']} samples; {source}"
    top.set_title(title, loc="left", size=11, parse_math=False)
    times = edges[1:]
    middle.fill_between(times, [_scaled(now["unaccepted_bytes"], _GIB) for now in slices], step="pre", color="#e69f00")
    middle.set_ylabel("unaccepted\nGiB", size=8)
    rates = [_scaled(now["rate_bytes_per_second"], 1 << 20) for now in slices]
    bottom.fill_between(times, rates, step="pre", color="#009e73")
    bottom.set_ylabel("accepted\nMiB/s", size=8)
    bottom.set_xlabel("seconds", size=8)
    for axes in (middle, bottom):
        axes.set_ylim(bottom=0)
    for axes in (top, middle, bottom):
        axes.tick_params(labelsize=7.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    entries = {"all accepted": _color(ACCEPTED), "half unaccepted": _color(4), "all unaccepted": _color(8)}
    if UNKNOWN in seen:
        entries["unknown"] = _color(UNKNOWN)
    _patches(figure, entries)
    return figure


def _heat(axes: Axes, answer: HistoryAnswer, edges: Sequence[float]) -> set[Kind]:
    """Bins from top to bottom, a line where memory between two is left out; what they show as."""
    from matplotlib.colors import ListedColormap

    slices, bins, size_ = answer["slices"], answer["bins"], answer["bytes_per_bin"]
    order: list[Kind] = [ACCEPTED, *range(1, 9), UNKNOWN]
    kinds = [[bin_kind(now, row, size_) for now in slices] for row in range(len(bins))]
    axes.set_ylabel(f"physical address\n(bins of {about(size_)})", size=8)
    if bins:
        colors = ListedColormap([_color(of) for of in order])
        heat = [[order.index(of) for of in row] for row in kinds]
        axes.pcolormesh(
            edges, range(len(bins) + 1), heat, cmap=colors, vmin=-0.5, vmax=9.5, linewidth=0, rasterized=True
        )
    axes.invert_yaxis()
    apart = [row for row in range(1, len(bins)) if bins[row] != bins[row - 1] + size_]
    for row in apart:
        axes.axhline(row, color="black", linewidth=0.8)
    step = max(1, len(bins) // 8)
    # The first address after a gap takes precedence over others near it.
    ticks = [row for row in range(0, len(bins), step) if not any(0 < abs(row - gap) < step / 2 for gap in apart)]
    ticks = sorted({*ticks, *apart}) if len(apart) <= 8 else ticks
    axes.set_yticks(ticks, [f"{bins[row]:#x}" for row in ticks], family="monospace")
    return {of for row in kinds for of in row}


_GIB = 1 << 30


def _scaled(value: Optional[float], by: int) -> float:
    """In units of ``by``; NaN, which is not drawn, for unknown."""
    return math.nan if value is None else value / by
