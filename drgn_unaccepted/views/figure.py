# SPDX-License-Identifier: LGPL-2.1-or-later
"""``map`` and recordings as figures for papers and tickets, drawn by matplotlib (the optional extra ``pictures``)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

from drgn_unaccepted.answer.documents import HistoryAnswer, MapAnswer, MapRow
from drgn_unaccepted.answer.head import source_name
from drgn_unaccepted.answer.map import GUARD, HOLE, OUTSIDE, RESERVED, Kind, kind
from drgn_unaccepted.answer.truth import ACCEPTED, UNKNOWN
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.views.history import bin_kind
from drgn_unaccepted.views.map import GLYPHS, Segment, gap_words, segments, unaccepted
from drgn_unaccepted.words import safe, share, size, span

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
#: By the types of each map.
_LANES: dict[str, dict[int, str]] = {
    "EFI": {
        **dict.fromkeys((1, 2), "#56b4e9"),
        **dict.fromkeys((3, 4), "#7cc4ad"),
        **dict.fromkeys((5, 6), "#cc79a7"),
        **{0: "#a9b0b9", 7: "#e2ddd3", 8: "#8c1c13", 9: "#f0e442", 10: "#c9b300", 11: "#6b7480", 15: "#f5dca5"},
    },
    "e820": {1: "#e2ddd3", 2: "#a9b0b9", 3: "#f0e442", 4: "#c9b300", 5: "#8c1c13", 128: "#56b4e9"},
}
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

    lanes = segments(answer) if len(answer["rows"]) <= _ROWS_WITH_LANES else {}
    pitch = _BAR + len(lanes) * _STEP + _FREE
    gaps = {gap["end"]: gap for gap in answer["left_out"]}
    height = len(answer["rows"]) * pitch + len(gaps) * _GAP
    figure = Figure(figsize=(10, 0.26 * height + 1.5), layout="constrained")
    axes = figure.add_subplot()
    y = 0.0
    seen: set[Kind] = {ACCEPTED}
    for row in answer["rows"]:
        if row["start"] in gaps:
            words = gap_words(gaps[row["start"]])
            _text(axes, 0, y + _GAP / 2 - _FREE / 2, words, color=_FAINT, size=7.5, va="center")
            y += _GAP
        seen |= _row(axes, answer, row, y)
        for number, (name, of_lane) in enumerate(lanes.items()):
            _lane(axes, answer, row, name, of_lane, y + _BAR + 0.08 + number * _STEP)
        y += pitch
    _axis(axes, answer, y - _FREE)
    _words(axes, answer)
    _legend(
        figure,
        seen,
        {f"{name} {one.name}": _lane_color(name, one) for name in lanes if name in _LANES for one in lanes[name]},
    )
    return figure


def _row(axes: Axes, answer: MapAnswer, row: MapRow, y: float) -> set[Kind]:
    columns = answer["bins_per_row"]
    kinds = [kind(row, index, answer["bytes_per_bin"]) for index in range(columns)]
    runs = _runs(kinds, [edge / columns for edge in range(columns + 1)])
    _bars(axes, [(low, high, _color(of)) for low, high, of in runs], y, _BAR)
    # A hairline is easily missed: a mark above points at the least unaccepted.
    wide = [((low + high) / 2, max(high - low, _TICK_WIDTH) / 2) for low, high, of in runs if of == 1]
    _bars(axes, [(middle - half, middle + half, _color(8)) for middle, half in wide], y - _TICK, _TICK)
    start = f"{row['start']:#x}"
    _text(axes, -0.006, y + _BAR / 2, start, ha="right", va="center", family="monospace", size=8)
    said = share(sum(row["unaccepted_bytes"]), sum(row["ram_bytes"])) or "no RAM"
    _text(axes, 1.006, y + _BAR / 2, said, va="center", size=7.5, color=_FAINT)
    return set(kinds)


def _lane(axes: Axes, answer: MapAnswer, row: MapRow, name: str, of_lane: Sequence[Segment], top: float) -> None:
    _text(axes, -0.006, top + _LANE / 2, name, size=5.5, color=_FAINT, ha="right", va="center")
    row_bytes = answer["bytes_per_bin"] * answer["bins_per_row"]
    bars = []
    for one in of_lane:
        low, high = max(one.start - row["start"], 0) / row_bytes, min(one.end - row["start"], row_bytes) / row_bytes
        if low >= high:
            continue
        bars.append((low, high, _lane_color(name, one)))
        # Zones are named where they are, instead of in the legend.
        if name not in _LANES and high - low > 0.012 * len(f"node {one.name}"):
            _text(axes, low + 0.003, top + _LANE / 2, f"node {one.name}", size=5.5, va="center")
    _bars(axes, bars, top, _LANE)


def _lane_color(name: str, one: Segment) -> str:
    return _LANES[name].get(one.type, _OTHER) if name in _LANES else _ZONES[one.type % 2]


def _runs(kinds: Iterable[Kind], edges: Sequence[float]) -> list[tuple[float, float, Kind]]:
    """Start, end and kind of each run of bins of one kind."""
    runs, at = [], 0
    for of, run in groupby(kinds):
        end = at + len(list(run))
        runs.append((edges[at], edges[end], of))
        at = end
    return runs


def _bars(axes: Axes, bars: Sequence[tuple[float, float, str]], y: float, height: float, **how: Any) -> None:
    """Bars beside each other: start, end and colour."""
    if bars:
        colors = [color for _, _, color in bars]
        axes.broken_barh([(a, b - a) for a, b, _ in bars], (y, height), facecolors=colors, linewidth=0, **how)


def _axis(axes: Axes, answer: MapAnswer, bottom: float) -> None:
    row_bytes = answer["bytes_per_bin"] * answer["bins_per_row"]
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom, -0.2)
    axes.set_yticks([])
    axes.set_xticks([tick / 8 for tick in range(8)])
    axes.set_xticklabels([f"+{size(row_bytes * tick // 8) if tick else 0}" for tick in range(8)], size=7.5, ha="left")
    axes.xaxis.tick_top()
    axes.tick_params(length=3, pad=2)
    for side in axes.spines.values():
        side.set_visible(False)


def _words(axes: Axes, answer: MapAnswer) -> None:
    ram, release = answer["totals"]["ram_bytes"], answer["target"]["release"]
    _title(axes, f"{unaccepted(answer, size, of=f' of {size(ram)} RAM')}; source: {source_name(answer)}")
    words = [f"Linux {safe(release)}"] if release is not None else []
    words.append(f"a row is {size(answer['bytes_per_bin'] * answer['bins_per_row'])}")
    words.append(f"a unit is {size(answer['unit_size'])}")
    if answer["covered"] is not None:
        words.append(f"the bitmap covers {span(*answer['covered'])}")
    axes.set_xlabel("; ".join(words), loc="left", size=8, color=_FAINT, parse_math=False)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", size=11, parse_math=False)


def _legend(figure: Figure, seen: set[Kind], others: Mapping[str, str]) -> None:
    """Colours by what they mean."""
    from matplotlib.patches import Patch

    entries = {GLYPHS[8].meaning: _color(8)}
    if seen.intersection(range(1, 8)):
        entries["partly unaccepted, the less the bluer"] = _color(4)
    order = (ACCEPTED, OUTSIDE, UNKNOWN, GUARD, RESERVED, HOLE)
    entries.update({GLYPHS[of].meaning: _color(of) for of in order if of in seen})
    patches = [Patch(facecolor=color, label=text) for text, color in {**entries, **others}.items()]
    figure.legend(handles=patches, loc="outside lower left", ncols=5, frameon=False, fontsize=6.5)


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
    times = [now["elapsed_seconds"] for now in slices]
    # The first sample has no time before it.
    edges = [times[0] - 0.01 * (answer["elapsed_seconds"] or 1), *times]
    figure = Figure(figsize=(10, 5.7), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(5, 1.6, 1.2))
    seen = _heat(top, answer, edges)
    seconds = f"{answer['elapsed_seconds']:.1f} seconds, {answer['samples']} samples"
    _title(top, f"Unaccepted memory over {seconds}; source: {source_name(answer)}")
    for axes, name, color, values, unit in (
        (middle, "unaccepted\nGiB", "#e69f00", [now["unaccepted_bytes"] for now in slices], 1 << 30),
        (bottom, "accepted\nMiB/s", "#009e73", [now["rate_bytes_per_second"] for now in slices], 1 << 20),
    ):
        axes.fill_between(times, [_scaled(value, unit) for value in values], step="pre", color=color)
        axes.set_ylabel(name, size=8)
        axes.set_ylim(bottom=0)
    bottom.set_xlabel("seconds", size=8)
    for axes in (top, middle, bottom):
        axes.tick_params(labelsize=7.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    _legend(figure, seen, {})
    return figure


def _heat(axes: Axes, answer: HistoryAnswer, edges: Sequence[float]) -> set[Kind]:
    """Bins from top to bottom, a line where memory between two is left out; what they show as."""
    bins, size_ = answer["bins"], answer["bytes_per_bin"]
    seen: set[Kind] = set()
    for row in range(len(bins)):
        kinds = [bin_kind(now, row, size_) for now in answer["slices"]]
        _bars(axes, [(a, b, _color(of)) for a, b, of in _runs(kinds, edges)], row, 1, rasterized=True)
        seen.update(kinds)
    axes.set_ylabel(f"physical address\n(bins of {size(size_)})", size=8)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(len(bins) or 1, 0)
    apart = [row for row in range(1, len(bins)) if bins[row] != bins[row - 1] + size_]
    for row in apart:
        axes.axhline(row, color="black", linewidth=0.8)
    step = max(1, len(bins) // 8)
    # The first address after a gap takes precedence over others near it.
    ticks = [row for row in range(0, len(bins), step) if not any(0 < abs(row - gap) < step / 2 for gap in apart)]
    ticks = sorted({*ticks, *apart}) if len(apart) <= 8 else ticks
    axes.set_yticks(ticks, [f"{bins[row]:#x}" for row in ticks], family="monospace")
    return seen


def _scaled(value: Optional[float], by: int) -> float:
    """In units of ``by``; NaN, which is not drawn, for unknown."""
    return math.nan if value is None else value / by
