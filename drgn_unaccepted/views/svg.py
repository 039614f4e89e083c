# SPDX-License-Identifier: LGPL-2.1-or-later
"""The map, and a recording, as SVG: one drawing for ``map --format svg``, the page of ``report`` and the docs.

Colours are attributes, for viewers without CSS; the page's style sheet replaces them in the dark. Sizes are bounded: no
part of a row is drawn finer than :data:`PLOT` columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby

from drgn_unaccepted.answer.documents import HistoryAnswer, MapAnswer, MapRow, Span, TypedRange
from drgn_unaccepted.answer.head import source_name
from drgn_unaccepted.answer.map import GUARD, HOLE, OUTSIDE, RESERVED, Kind, kind
from drgn_unaccepted.answer.truth import ACCEPTED, UNKNOWN
from drgn_unaccepted.views.map import GLYPHS, bin_kinds, gap_words, segments, unaccepted
from drgn_unaccepted.words import count, safe, share, size, span

COLUMNS = 512  #: Bins of a row: a row of 1 GiB shows each unit.

#: Widths: labels, bars, shares; and the height of a line of text.
LEFT, PLOT, RIGHT, LINE = 124, 1024, 52, 18
WIDTH = LEFT + PLOT + RIGHT
#: Heights of a row: the strip of findings, the state, its marks, a lane, and what is free.
_ABOVE, _BAR, _MARK, _LANE, _FREE = 5, 18, 6, 9, 11

#: Widths: of a column of bars beside a recording, and of a mark that points at what is narrower.
_COLUMN, _SEEN = 130, 6
_ROWS_WITH_LANES = 20  #: With more rows there is no room for the lanes.
_ALWAYS: tuple[Kind, ...] = (8, ACCEPTED)  #: Kinds that the legend has in any case.

_COLORS = {
    ACCEPTED: "#a8cfe8",
    "unaccepted": "#e69f00",
    RESERVED: "#a9b0b9",
    "accepting": "#009e73",
    "finding": "#c2185b",
    # The map of the firmware is about the boot and not about now, so it has colours of its own.
    **{"usable": "#e2ddd3", "boot-unaccepted": "#f5dca5", "loader": "#56b4e9", "boot": "#7cc4ad", "runtime": "#cc79a7"},
    **{"acpi": "#f0e442", "nvs": "#c9b300", "mmio": "#6b7480", "bad": "#8c1c13", "other": "#8f7dbd"},
    **{"zone-a": "#c8dcc6", "zone-b": "#94bd91", "ink": "#1a2129", "muted": "#566270", "dark": "#1a2129"},
}
#: Hatched kinds: ground and lines.
_HATCHED = {
    UNKNOWN: ("#e8e3f3", "#8f7dbd"),
    GUARD: ("#e69f00", "#a8cfe8"),
    OUTSIDE: ("#d9e8f2", "#bcd4e4"),
    HOLE: ("#f3f4f6", "#dfe2e6"),
}
_EFI = ("reserved", *["loader"] * 2, *["boot"] * 2, *["runtime"] * 2, "usable", "bad", "acpi", "nvs", *["mmio"] * 2)
_TYPES = {
    "EFI": {**dict(enumerate(_EFI)), 15: "boot-unaccepted"},
    "e820": {1: "usable", 2: "reserved", 3: "acpi", 4: "nvs", 5: "bad", 128: "loader"},
}

Bar = tuple[float, float, str]  #: Start and end on the drawing, and the attributes.
Legend = dict[str, dict[str, str]]  #: Meanings with their attributes, by what they are about.


def map_svg(answer: MapAnswer, faults: Sequence[Span] = ()) -> str:
    """The answer of ``map`` as a drawing, with the ranges of findings, ``faults``, marked above the rows."""
    lanes = segments(answer) if len(answer["rows"]) <= _ROWS_WITH_LANES else {}
    gaps = {gap["end"]: gap for gap in answer["left_out"]}
    legend: Legend = {"state": dict(_meanings(_ALWAYS))}
    parts, y = list(_heading(answer)), 4 * LINE
    row_bytes = answer["bytes_per_bin"] * answer["bins_per_row"]
    for row in answer["rows"]:
        start, end = row["start"], row["start"] + row_bytes
        if start in gaps:
            parts.append(_text(LEFT, y + 10, gap_words(gaps[start]), "muted"))
            y += LINE
        kinds = [kind(row, index, answer["bytes_per_bin"]) for index in range(answer["bins_per_row"])]
        legend["state"].update(_meanings(kinds))
        parts.append(_bars(_places(faults, start, row_bytes, "finding", _SEEN), y, _ABOVE - 1))
        top = y + _ABOVE
        parts.append(_states(kinds, top, _BAR))
        accepts = _places(answer["lanes"]["accepting"] or (), start, row_bytes, "accepting", _SEEN)
        parts.append(_bars((*_marks(row, kinds), *accepts), top + _BAR + 1, _MARK - 1))
        parts.append(_text(LEFT - 10, top + 14, f"{start:#x}", "ink", 'text-anchor="end" font-family="monospace"'))
        said = share(sum(row["unaccepted_bytes"]), sum(row["ram_bytes"])) or "no RAM"
        parts.append(_text(LEFT + PLOT + 8, top + 14, said, "muted"))
        y = top + _BAR + _MARK
        for name, of_lane in lanes.items():
            parts.append(_text(LEFT - 10, y + _LANE - 1, name, "muted", 'text-anchor="end" font-size="9"'))
            parts.extend(_lane(name, of_lane, start, row_bytes, y, legend))
            y += _LANE + 1
        where = f'x="{LEFT}" y="{top - _ABOVE}" width="{PLOT}" height="{y - top + _ABOVE}"'
        parts.append(f'<rect data-start="{start}" data-end="{end}" {where} fill="none" pointer-events="all"/>')
        y += _FREE if lanes else _FREE // 2
    if answer["lanes"]["accepting"]:
        legend["state"]["being accepted"] = _fill("accepting")
    if faults:
        legend["state"]["in a finding"] = _fill("finding")
    if not answer["rows"]:
        parts.append(_text(LEFT, y + 10, "no RAM and no unaccepted memory here", "ink"))
        y += LINE
    return _svg(parts, y, legend, "Map of physical memory")


def history_svg(answer: HistoryAnswer) -> str:
    """A recording: time goes down, addresses go across; beside them are the unaccepted bytes and the rate as bars."""
    bins, slices, bin_ = answer["bins"], answer["slices"], answer["bytes_per_bin"]
    tall, plot = max(2, min(16, 640 // len(slices))), PLOT - 2 * _COLUMN
    legend: Legend = {"state": dict(_meanings(_ALWAYS))}
    samples = f"{answer['samples'] / len(slices):.3g} of {count(answer['samples'], 'sample')}"
    scale = f"a column is {size(bin_)}, a row {samples}"
    words = f"{answer['elapsed_seconds']:.1f} seconds; source: {source_name(answer)}; {scale}"
    parts, y = [_text(LEFT, LINE, words, "muted")], 3 * LINE
    amounts = [(now["unaccepted_bytes"] or 0, max(0, now["rate_bytes_per_second"] or 0)) for now in slices]
    most = [max(1, *column) for column in zip((0, 0), *amounts)]
    rights = (LEFT + plot + 12, LEFT + plot + _COLUMN + 12)
    parts += [_text(x, y - 8, f"at most {size(of)}{per}", "muted") for x, of, per in zip(rights, most, ("", "/s"))]
    labelled, free = -LINE, 0
    for index, start in enumerate(bins):
        x = LEFT + index * plot // len(bins)
        if (not index or start != bins[index - 1] + bin_) and x >= free:
            parts.append(_text(x, y - 8, f"{start:#x}", "ink", 'font-family="monospace"'))
            free = x + 110
    for now, both in zip(slices, amounts):
        kinds = bin_kinds(answer, now)
        legend["state"].update(_meanings(kinds))
        when = f"{now['elapsed_seconds']:.1f} s"
        speed = "rate unknown" if now["rate_bytes_per_second"] is None else f"{size(both[1])}/s accepted"
        said = f"{when}: {size(now['unaccepted_bytes'])} unaccepted, {speed}"
        if y - labelled >= LINE:
            parts.append(_text(LEFT - 10, y + 10, when, "ink", 'text-anchor="end" font-family="monospace"'))
            labelled = y
        ends = (x + amount / of * (_COLUMN - 16) for x, amount, of in zip(rights, both, most))
        beside = _bars(zip(rights, ends, (_fill("unaccepted"), _fill("accepting"))), y, tall)
        parts.append(f"<g><title>{escape(said)}</title>{_states(kinds, y, tall, plot)}{beside}</g>")
        y += tall
    legend["state"]["accepted in a second"] = _fill("accepting")
    return _svg(parts, y + _FREE, legend, "Unaccepted memory over time")


def _svg(parts: Iterable[str], y: float, legend: Legend, title: str) -> str:
    entries = []
    for name, meanings in legend.items():
        x, y = LEFT, y + LINE
        entries.append(_text(LEFT - 10, y, name, "muted", 'text-anchor="end"'))
        for text, style in meanings.items():
            width = 36 + 7 * len(text)
            if x > LEFT and x + width > WIDTH:
                x, y = LEFT, y + LINE
            ground = _fill(ACCEPTED) if "opacity" in style else style
            entries += [_bars([(x, x + 14, ground), (x, x + 14, style)], y - 11, 12), _text(x + 20, y, text, "muted")]
            x += width
    hatches = "".join(
        f'<pattern id="{name}" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect class="{name}-ground" width="5" height="5" fill="{ground}"/>'
        f'<rect class="{name}-lines" width="2" height="5" fill="{lines}"/></pattern>'
        for name, (ground, lines) in _HATCHED.items()
    )
    extent = f'viewBox="0 0 {WIDTH} {y + LINE:g}" width="{WIDTH}" height="{y + LINE:g}"'
    font = 'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12"'
    shapes = "\n".join(filter(None, (*parts, *entries)))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" {extent} role="img" aria-label="{title}" {font}>
<defs>{hatches}</defs><rect class="back" width="100%" height="100%" fill="#fff"/>
<g shape-rendering="crispEdges">
{shapes}
</g></svg>
"""


def _heading(answer: MapAnswer) -> Iterator[str]:
    of_ram, release = f" of {size(answer['totals']['ram_bytes'])} RAM", answer["target"]["release"]
    yield _text(LEFT, LINE, f"{unaccepted(answer, of_ram)}; source: {source_name(answer)}", "ink", 'font-size="15"')
    row_bytes = answer["bytes_per_bin"] * answer["bins_per_row"]
    words = "" if release is None else f"Linux {safe(release)}; "
    words += f"a row is {size(row_bytes)}; a unit is {size(answer['unit_size'])}"
    words += "" if answer["covered"] is None else f"; the bitmap covers {span(*answer['covered'])}"
    yield _text(LEFT, 2 * LINE, words, "muted")
    for tick in range(8 if answer["rows"] else 0):
        x = LEFT + tick * PLOT // 8
        yield _text(x, 4 * LINE - 6, f"+{size(row_bytes * tick // 8) if tick else 0}", "muted", 'font-size="10"')


def _states(kinds: Sequence[Kind], y: float, height: float, width: int = PLOT) -> str:
    """Bins beside each other; where a part of one is unaccepted, accepted memory shines through."""
    bars: list[Bar] = []
    at, step = 0, width / len(kinds)
    for of, run in groupby(kinds):
        low, at = at, at + len(list(run))
        for shown in (ACCEPTED, of) if of in range(1, 8) else (of,):
            bars.append((round(LEFT + low * step, 1), round(LEFT + at * step, 1), _style(shown)))
    return _bars(bars, y, height)


def _marks(row: MapRow, kinds: Sequence[Kind]) -> Iterator[Bar]:
    """Bars below the state, for what is narrow or hidden in it: unaccepted, unknown, perhaps accepted."""
    for of, key in ((8, "unaccepted_bytes"), (UNKNOWN, "unknown_bytes"), (GUARD, "guard_bytes")):
        there = zip(row[key], kinds)  # type: ignore[literal-required]
        at, step = float(LEFT), PLOT / len(kinds)
        for is_there, run in groupby(there, lambda one: one[0] > 0):
            shown = [kind_ for _, kind_ in run]
            low, at = at, at + len(shown) * step
            if is_there and (at - low < _SEEN or (of != 8 and {*shown} != {of})):
                yield *_widened(low, at), _style(of)


def _widened(low: float, high: float, least: float = _SEEN) -> tuple[float, float]:
    more = max(0.0, least - (high - low)) / 2
    return low - more, high + more


def _places(ranges: Iterable[Sequence[int]], start: int, row_bytes: int, name: str, least: float = 1) -> Iterator[Bar]:
    """The bars of sorted ranges in a row; what a bar already covers is not drawn again."""
    painted = 0.0
    for low, high in ranges:
        if high <= start or low >= start + row_bytes:
            continue
        left = LEFT + round(max(low - start, 0) / row_bytes * PLOT)
        right = LEFT + round(min(high - start, row_bytes) / row_bytes * PLOT)
        x0, x1 = _widened(left, right, least)
        if x1 > painted:
            yield max(x0, painted), x1, _fill(name)
            painted = x1


def _lane(name: str, lane: Sequence[TypedRange], start: int, row_bytes: int, y: float, legend: Legend) -> Iterator[str]:
    classes: dict[str, list[TypedRange]] = {}
    for one in lane:
        if one["start"] < start + row_bytes and one["end"] > start:
            classes.setdefault(lane_class(name, one), []).append(one)
            if name in _TYPES:
                meaning = one["name"] if one["type"] in _TYPES[name] else "another type"
                legend.setdefault(name, {})[meaning] = _fill(lane_class(name, one))
    for class_, ranges in classes.items():
        yield _bars(_places(((one["start"], one["end"]) for one in ranges), start, row_bytes, class_), y, _LANE)
        # Zones are named where they are, if there is room.
        for one in () if name in _TYPES else ranges:
            ((low, high, _),) = _places([(one["start"], one["end"])], start, row_bytes, class_)
            if high - low > 6 * len(one["name"]) + 30:
                yield _text(low + 4, y + 8, f"node {one['name']}", "dark", 'font-size="9"')


def lane_class(name: str, one: TypedRange) -> str:
    """The colour of a segment of a map: its key in ``_COLORS``."""
    return _TYPES[name].get(one["type"], "other") if name in _TYPES else ("zone-a", "zone-b")[one["type"] % 2]


def _meanings(kinds: Iterable[Kind]) -> Iterator[tuple[str, str]]:
    for of in kinds:
        meaning = "partly unaccepted, the less the bluer" if of in range(1, 8) else GLYPHS[of].meaning
        yield meaning, _style(of)


def _style(of: Kind) -> str:
    if of in range(1, 9):
        # From a third to two thirds: one unit in a thousand looks unlike none, and all but one unlike all.
        return _fill("unaccepted") + ("" if of == 8 else f' fill-opacity="{(int(of) + 5) / 18:.2f}"')
    return _fill(str(of))


def _fill(name: str) -> str:
    return f'class="{name}" fill="{fill(name)}"'


def fill(name: str) -> str:
    """The colour of a class in the light."""
    return f"url(#{name})" if name in _HATCHED else _COLORS[name]


def _bars(bars: Iterable[Bar], y: float, height: float) -> str:
    paths: dict[str, list[str]] = {}
    for low, high, style in bars:
        paths.setdefault(style, []).append(f"M{low:g} {y:g}h{high - low:g}v{height:g}H{low:g}z")
    return "".join(f'<path {style} d="{"".join(path)}"/>' for style, path in paths.items())


def _text(x: float, y: float, text: str, name: str, how: str = "") -> str:
    how = f'fill="{_COLORS[name]}" {how}'.rstrip()
    return f'<text class="{name}" x="{x:g}" y="{y:g}" {how}>{escape(text)}</text>'
