# SPDX-License-Identifier: LGPL-2.1-or-later
"""``map`` on a terminal: one character a bin, axes, scale, the maps beside it, legend and totals; and a recording.

Characters say everything. Colour only repeats it, in orange and blue, which everyone can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import NamedTuple, Optional

from drgn_unaccepted.answer.documents import HistoryAnswer, HistorySlice, MapAnswer, MapGap, MapRow, TypedRange
from drgn_unaccepted.answer.head import reasons, source_name
from drgn_unaccepted.answer.map import GUARD, HOLE, OUTSIDE, RESERVED, Kind, kind, level
from drgn_unaccepted.answer.truth import ACCEPTED, UNKNOWN
from drgn_unaccepted.model.ranges import merge
from drgn_unaccepted.words import count, safe, size, span, together, wrap


class Style(NamedTuple):
    width: int  #: Columns of the terminal.
    ascii: bool  #: 7-bit characters only.
    color: bool


class Glyph(NamedTuple):
    text: str
    ascii: str  #: For terminals without block elements.
    color: str  #: Select Graphic Rendition, from the 256-colour palette.
    meaning: str


#: Orange on blue: 214 is near Okabe and Ito's orange, 24 near their blue.
_MEMORY, _BESIDE, _STRONG, _FAINT = "38;5;214;48;5;24", "38;5;117;48;5;24", "1", "38;5;245"

GLYPHS: dict[Kind, Glyph] = {
    ACCEPTED: Glyph(" ", "0", _MEMORY, "all accepted"),
    **{n: Glyph(" ▁▂▃▄▅▆▇"[n], str(n), _MEMORY, f"{n}/8 unaccepted") for n in range(1, 8)},
    8: Glyph("█", "8", _MEMORY, "all unaccepted"),
    GUARD: Glyph("▒", "g", _MEMORY, "listed, perhaps accepted (guard)"),
    OUTSIDE: Glyph("-", "-", _BESIDE, "outside the bitmap, taken as accepted"),
    UNKNOWN: Glyph("?", "?", _STRONG, "unknown"),
    RESERVED: Glyph("×", "x", _FAINT, "reserved"),  # noqa: RUF001
    HOLE: Glyph("·", ".", _FAINT, "no RAM"),
}

_PART = 1  #: Stands for all levels between none and all of a bin.

#: Letters below a bin that the glyph for unaccepted memory has no room for.
MARKS = {"guard": "g perhaps a unit less (guard)", "unknown": "? partly unknown", "accepting": "a an accept in flight"}

#: Letters of the types of each map, by number.
_LETTERS = {
    "EFI": dict(enumerate("rlLbBtTCXANMmPpU")),
    "e820": {1: "R", 2: "r", 3: "A", 4: "N", 5: "X", 7: "P", 12: "p", 128: "K", 0xEFFFFFFF: "S"},
}
_OTHER, _SEVERAL = "#", "*"

_RAM_FROM = {
    "efi": "from the EFI memory map: no e820 table was captured",
    "zones": "from the spans of the zones: no e820 table was captured",
    None: "no e820 table, EFI map or zone says what is RAM here",
}

_GUTTER = 13  #: The widest usual address, 0xfffffffffff (16 TiB less one), and the frame on its right.
_LABEL = 8  #: Columns of the word before the legend and before other sentences.
_TICK = 16  #: Characters from one tick of the axis to the next.
_HEADING = "units/RAM"  #: Above the numbers on the right of rows: unaccepted units, and units of RAM.
_GROUPS = 5  #: The most groups of neighbouring bins that a bar separates in a recording.


def bins_for(width: int) -> int:
    """Bins in a row for a terminal of ``width`` columns: a power of two, so that rows begin at round addresses."""
    return 1 << max(3, (width - _GUTTER - 2).bit_length() - 1)


def map_lines(answer: MapAnswer, style: Style) -> Iterator[str]:
    """The map as lines of at most ``style.width`` columns, of which it needs 40."""
    yield from _totals(answer, style)
    yield from _head(answer, style)
    yield ""
    if not answer["rows"]:
        yield "no RAM and no unaccepted memory here"
        return
    gutter = max(11, *(len(f"{row['start']:#x}") for row in answer["rows"]))
    totals = _row_totals(answer, gutter, style)
    yield from _axis(answer, gutter, bool(totals))
    lanes = {name: _lane(answer, name, of_lane) for name, of_lane in segments(answer).items()}
    gaps = {gap["end"]: gap for gap in answer["left_out"]}
    below: set[str] = set()
    seen: set[Kind] = set()
    columns, bin_ = answer["bins_per_row"], answer["bytes_per_bin"]
    end = answer["window"][1] if answer["window"] else answer["rows"][-1]["start"] + columns * bin_
    for row in answer["rows"]:
        if row["start"] in gaps:
            yield f"{'':{gutter}} {gap_words(gaps[row['start']])}"
        asked = min(columns, -((row["start"] - end) // bin_))
        kinds = [kind(row, index, bin_) for index in range(asked)]
        seen.update(_PART if of in range(1, 8) else of for of in kinds)
        yield f"{row['start']:#{gutter}x}|{glyphs(kinds, style)}|{totals.get(row['start'], '')}"
        of_lanes = ((name, drawn[row["start"]]) for name, (drawn, _) in lanes.items() if row["start"] in drawn)
        for name, text in (*_marks(answer, row), *of_lanes):
            below.add(name)
            yield f"{name:>{gutter}}|{text[:asked]}|"
    yield ""
    yield from _legend(answer, {name: means for name, (drawn, means) in lanes.items() if drawn}, below, seen, style)
    if len(answer["rows"]) > 1 and lanes:
        yield from say("lanes", "are drawn where they differ from the row above", style)


def _head(answer: MapAnswer, style: Style) -> Iterator[str]:
    yield from say("source", "; ".join([source_name(answer), *map(safe, reasons(answer))]), style)
    for note in answer["torn"]:
        yield from say("torn", safe(note), style)
    units, covered, bin_ = answer["units_per_bin"], answer["covered"], answer["bytes_per_bin"]
    in_bytes = f"{count(units // 8, 'byte')} of the bitmap, " if covered is not None and units >= 8 else ""
    unit = size(answer["unit_size"]) + ("" if answer["unit_size_from"] == "table" else " (assumed)")
    row = size(bin_ * answer["bins_per_row"])
    scale = f"1 character is {size(bin_)}, {in_bytes}{count(units, 'unit')} of {unit}, 1 row is {row}"
    yield from say("scale", scale, style)
    if covered is not None:
        yield from say("bitmap", f"covers {span(*covered)}, {size(answer['covered_bytes'])}", style)
    if answer["memory_from"] != "e820":
        yield from say("RAM", _RAM_FROM[answer["memory_from"]], style)


def _axis(answer: MapAnswer, gutter: int, heads_totals: bool) -> Iterator[str]:
    """Offsets in a row, over the columns that they belong to."""
    columns = answer["bins_per_row"]
    step = _TICK if columns >= 2 * _TICK else columns
    offsets = [f"+{size(tick * answer['bytes_per_bin']) if tick else 0}" for tick in range(0, columns, step)]
    yield f"{'':{gutter}} " + "".join(offset.ljust(step) for offset in offsets).rstrip()
    ticks = f"{'':{gutter}} " + "'".ljust(step) * len(offsets)
    yield f"{ticks}  {_HEADING}" if heads_totals else ticks.rstrip()


def _row_totals(answer: MapAnswer, gutter: int, style: Style) -> dict[int, str]:
    """The numbers on the right of rows, by their start; empty where there is no room."""
    unit = answer["unit_size"]
    totals = {r["start"]: f" {sum(r['unaccepted_units']):>5}/{sum(r['ram_bytes']) // unit}" for r in answer["rows"]}
    widest = max(len(_HEADING) + 1, *map(len, totals.values()))
    return totals if gutter + answer["bins_per_row"] + 2 + widest <= style.width else {}


def glyphs(kinds: Iterable[Kind], style: Style) -> str:
    return "".join(
        paint("".join(glyph(of, style) for of in run), color, style)
        for color, run in groupby(kinds, lambda of: GLYPHS[of].color)
    )


def gap_words(gap: MapGap) -> str:
    length = size(gap["end"] - gap["start"])
    if gap["ram_bytes"]:
        return f"{length} before the first row"
    return f"{length} without RAM" + (f", {size(gap['reserved_bytes'])} reserved" if gap["reserved_bytes"] else "")


def segments(answer: MapAnswer) -> dict[str, list[TypedRange]]:
    """The other maps that were captured; the type of a zone is its place among the zones."""
    maps = answer["lanes"]
    found = {name: entries for name, entries in (("EFI", maps["efi"]), ("e820", maps["e820"])) if entries is not None}
    if maps["zones"] is not None:
        zones = sorted((one["start"], one["end"], f"{one['node']} {safe(one['name'])}") for one in maps["zones"])
        found["zone"] = [{"start": low, "end": end, "type": n, "name": one} for n, (low, end, one) in enumerate(zones)]
    return found


def _lane(answer: MapAnswer, name: str, of_lane: Sequence[TypedRange]) -> tuple[dict[int, str], list[str]]:
    """The lane under rows where it differs from the one drawn last, by their starts; and its legend."""
    letters, bin_, columns = _LETTERS.get(name), answer["bytes_per_bin"], answer["bins_per_row"]
    shown = [one["name"] if letters is None else letters.get(one["type"], _OTHER) for one in of_lane]
    values = [(one["start"], one["end"], value) for one, value in zip(of_lane, shown)]
    drawn: dict[int, str] = {}
    seen: set[Optional[str]] = set()
    last: Optional[str] = None
    for start in (row["start"] for row in answer["rows"]):
        bins = _values(values, start, bin_, columns)
        if set(bins) in ({None}, {last}):
            continue
        last = bins[-1]
        seen.update(bins)
        begins = {(one["start"] - start) // bin_ for one in of_lane if start <= one["start"] < start + bin_ * columns}
        drawn[start] = _names(bins, begins) if letters is None else "".join(value or " " for value in bins)
    if letters is None:
        extents = [f"{one['name']} {span(one['start'], one['end'])}" for one in of_lane if one["name"] in seen]
        return drawn, [*extents, "[ begins"]
    meanings = {letters[one["type"]]: one["name"] for one in of_lane if one["type"] in letters}
    meanings.update({_OTHER: "another type", _SEVERAL: "several"})
    used = sorted((value for value in seen if value), key=lambda letter: (not letter.isalpha(), letter))
    return drawn, [f"{letter} {meanings[letter]}" for letter in used]


def _marks(answer: MapAnswer, row: MapRow) -> Iterator[tuple[str, str]]:
    """The lines of :data:`MARKS` under a row, where they are not empty."""
    flight = [(start, end, "a") for start, end in answer["lanes"]["accepting"] or ()]
    accepting = _values(flight, row["start"], answer["bytes_per_bin"], answer["bins_per_row"])
    here = row["unaccepted_bytes"]
    marks = {
        "guard": "".join("g" if 0 < guard < there else " " for there, guard in zip(here, row["guard_bytes"])),
        "unknown": "".join("?" if there and unknown else " " for there, unknown in zip(here, row["unknown_bytes"])),
        "accepting": "".join(value or " " for value in accepting),
    }
    return ((name, text) for name, text in marks.items() if text.strip())


def _values(segments: Iterable[tuple[int, int, str]], start: int, bin_: int, columns: int) -> list[Optional[str]]:
    """The value of each bin of a row: of its segment, :data:`_SEVERAL`, or None."""
    values: list[Optional[str]] = [None] * columns
    for low, high, value in segments:
        if low >= start + bin_ * columns:
            break
        for index in range(max(0, (low - start) // bin_), min(columns, -(-(high - start) // bin_))):
            values[index] = value if values[index] in (None, value) else _SEVERAL
    return values


def _names(values: Sequence[Optional[str]], begins: set[int]) -> str:
    """Runs of one name, ``[`` where it begins: ``[0 DMA32-----[0 Normal---``."""
    text = ""
    for value, run in groupby(values):
        length = len(list(run))
        if value is None or value == _SEVERAL:
            text += (value or " ") * length
        else:
            text += (("[" if len(text) in begins else "-") + value)[:length].ljust(length, "-")
    return text


def _legend(
    answer: MapAnswer, lanes: Mapping[str, list[str]], below: set[str], drawn: set[Kind], style: Style
) -> Iterator[str]:
    entries = [(glyph(of, style), of, entry.meaning) for of, entry in GLYPHS.items() if of in drawn and of != _PART]
    if _PART in drawn:
        levels = "1-7" if style.ascii else "".join(GLYPHS[n].text for n in range(1, 8))
        what = "eighths" if answer["totals"]["unaccepted_bytes"] % answer["unit_size"] else "units"
        meaning = f"1 to 7 {what if answer['units_per_bin'] == 8 else 'eighths'} unaccepted"
        if answer["units_per_bin"] > 8:
            meaning = f"eighths unaccepted, {levels[0]} from one unit on"
        entries.append((levels, _PART, meaning))
    yield from legend(entries, style)
    marks = [text for name, text in MARKS.items() if name in below]
    if marks:
        yield from say("marks", together(marks), style)
    for name, meanings in lanes.items():
        yield from say(name, together(meanings), style)
    if answer["lanes"]["efi_complete"] is False:
        yield from say("", f"the EFI map is incomplete, from the {answer['lanes']['efi_provenance']}", style)


def legend(entries: Iterable[tuple[str, Kind, str]], style: Style) -> Iterator[str]:
    shown = [("' '" if text == " " else text, of, meaning) for text, of, meaning in entries]
    for line in say("legend", together(f"{text} {meaning}" for text, _, meaning in shown), style):
        for text, of, meaning in shown:
            line = line.replace(f"{text} {meaning}", f"{paint(text, GLYPHS[of].color, style)} {meaning}")
        yield line


def _totals(answer: MapAnswer, style: Style) -> Iterator[str]:
    totals = answer["totals"]
    in_units = f" in {count(totals['units'], 'unit')}" if totals["units"] else ""
    parts = [unaccepted(answer) + (in_units if answer["exact"] else "")]
    if answer["source"] == "page-lists":
        parts.append(f"{size(totals['unaccepted_bytes'])} listed{in_units}")
    parts.append(f"RAM {size(totals['ram_bytes'])}")
    amounts = (totals["unknown_bytes"], totals["uncovered_bytes"], totals["reserved_bytes"])
    words = ("of it unknown", "of it outside the bitmap", "reserved")
    parts += [f"{size(nbytes)} {what}" for nbytes, what in zip(amounts, words) if nbytes]
    yield from say("shown" if answer["window"] else "total", ", ".join(parts), style)
    if answer["window"]:
        most = answer["unaccepted_bytes"] if answer["exact"] else answer["unaccepted_bytes_max"]
        up_to = "" if answer["exact"] or most is None else "up to "
        yield from say("guest", f"{up_to}{size(most)} unaccepted in all", style)


def unaccepted(answer: MapAnswer, of: str = "") -> str:
    """How much of the shown memory is unaccepted, and ``of`` how much, where a number is known."""
    if answer["source"] == "none" and answer["table"]["state"] == "absent":
        return "no table, nothing for the kernel to accept"
    total, least, most = (answer[key] for key in ("unaccepted_bytes", "unaccepted_bytes_min", "unaccepted_bytes_max"))
    if not answer["exact"] and answer["window"] is None and least is not None and most is not None:
        return f"{size(least)} to {size(most)} unaccepted{of}"
    # A source that may lack some has no total; what is listed or undecided may be accepted.
    bound = "at least " if total is None else "" if answer["exact"] else "up to "
    nbytes = answer["totals"]["unaccepted_bytes"] + (answer["totals"]["unknown_bytes"] if bound == "up to " else 0)
    return f"{bound}{size(nbytes)} unaccepted{of}"


def glyph(of: Kind, style: Style) -> str:
    return GLYPHS[of].ascii if style.ascii else GLYPHS[of].text


def paint(text: str, color: str, style: Style) -> str:
    return f"\x1b[{color}m{text}\x1b[0m" if style.color else text


def say(name: str, text: str, style: Style) -> Iterator[str]:
    return iter(wrap(text, f"{name:{_LABEL}}", style.width))


def history_bins_for(width: int) -> int:
    """Bins of a recording that fit a terminal, with a bar between groups of neighbours."""
    return max(8, width - len(_history_head("", "", "")) - _GROUPS - 1)


def history_lines(answer: HistoryAnswer, style: Style) -> Iterator[str]:
    """A recording: time goes down, addresses go across, unaccepted bytes and their rate are on the left."""
    yield from say("source", source_name(answer), style)
    bin_ = answer["bytes_per_bin"]
    groups = merge((start, start + bin_) for start in answer["bins"])
    scale = f"1 character is {size(bin_)}, {count(answer['units_per_bin'], 'unit')}; "
    scale += f"{count(answer['samples'], 'sample')} in {answer['elapsed_seconds']:.1f} seconds"
    yield from say("scale", scale, style)
    yield from say("across", ", ".join(span(start, end) for start, end in groups) or "no memory", style)
    yield ""
    yield _history_head("seconds", "unaccepted", "rate")
    for now in answer["slices"]:
        rate, kinds = now["rate_bytes_per_second"], iter(bin_kinds(answer, now))
        in_words = "" if rate is None else f"{rate / (1 << 20):.1f} MiB/s"
        left = _history_head(f"{now['elapsed_seconds']:.1f}", size(now["unaccepted_bytes"]), in_words)
        strips = (glyphs(islice(kinds, (end - start) // bin_), style) for start, end in groups)
        yield f"{left}|{('|' if len(groups) <= _GROUPS else '').join(strips)}|"
    yield ""
    meanings: dict[Kind, str] = {ACCEPTED: "accepted", 4: "half", 8: "unaccepted", UNKNOWN: "unknown"}
    yield from legend([(glyph(of, style), of, meaning) for of, meaning in meanings.items()], style)


def _history_head(seconds: str, unaccepted: str, rate: str) -> str:
    return f"{seconds:>9} {unaccepted:>11} {rate:>13}"


def bin_kinds(answer: HistoryAnswer, now: HistorySlice) -> list[Kind]:
    """The bins at the end of a slice of time."""
    bins = now["bins_unaccepted_bytes"] or [None] * len(answer["bins"])
    return [UNKNOWN if one is None else level(one, answer["bytes_per_bin"]) or ACCEPTED for one in bins]
