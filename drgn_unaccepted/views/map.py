# SPDX-License-Identifier: LGPL-2.1-or-later
"""``map`` on a terminal: one character a bin, axes, scale, the maps beside it, legend and totals.

All is said by characters; colour only repeats it, in orange and blue, which everyone can tell apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Callable, NamedTuple, Optional, TextIO, Union

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.words import count, safe, size, span


class Style(NamedTuple):
    #: Columns of the terminal.
    width: int
    #: 7-bit characters only.
    ascii: bool
    color: bool


class Glyph(NamedTuple):
    text: str
    #: For terminals without block elements.
    ascii: str
    #: Select Graphic Rendition, from the 256-colour palette.
    color: str
    meaning: str


#: Orange on blue: 214 is near Okabe and Ito's orange, 24 near their blue.
_MEMORY, _BESIDE, _STRONG, _FAINT = "38;5;214;48;5;24", "38;5;117;48;5;24", "1", "38;5;245"

ACCEPTED, OUTSIDE, HOLE, RESERVED, UNKNOWN, GUARD = "accepted", "outside", "hole", "reserved", "unknown", "guard"
#: What a bin shows as: eighths of it that are unaccepted (1 to 8), or one of the words above.
Kind = Union[int, str]

GLYPHS: dict[Kind, Glyph] = {
    ACCEPTED: Glyph(" ", "0", _MEMORY, "all accepted"),
    **{
        level: Glyph(
            " ▁▂▃▄▅▆▇█"[level], str(level), _MEMORY, f"{level}/8 unaccepted" if level < 8 else "all unaccepted"
        )
        for level in range(1, 9)
    },
    GUARD: Glyph("▒", "g", _MEMORY, "listed, perhaps accepted (guard)"),
    OUTSIDE: Glyph("-", "-", _BESIDE, "outside the bitmap, taken as accepted"),
    UNKNOWN: Glyph("?", "?", _STRONG, "unknown"),
    RESERVED: Glyph("×", "x", _FAINT, "reserved"),  # noqa: RUF001
    HOLE: Glyph("·", ".", _FAINT, "no RAM"),
}

#: What is drawn below a bin whose glyph shows unaccepted memory.
MARKS = {
    "guard": "g perhaps a unit less (guard)",
    "unknown": "? partly unknown",
    "accepting": "a an accept in flight",
}

#: Letters of EFI memory types, by number; what has none is ``#``.
_EFI = "rlLbBtTCXANMmPpU"

#: Letters of e820 types.
_E820 = {1: "R", 2: "r", 3: "A", 4: "N", 5: "X", 7: "P", 12: "p", 128: "K", 0xEFFFFFFF: "S"}

_OTHER, _SEVERAL = "#", "*"

#: The widest usual address, 0xfffffffffff (16 TiB less one), and the frame on its right.
_GUTTER = 13

#: Columns of the words before the legend's and the other sentences.
_LABEL = 8

#: Characters from one tick of the axis to the next.
_TICK = 16


def style_for(
    stream: TextIO, environ: Mapping[str, str], color: str = "auto", ascii_only: bool = False, width: int = 80
) -> Style:
    """How to draw on ``stream``.

    :param environ: ``TERM`` (``dumb``: ASCII, no colour) and ``NO_COLOR`` (no-color.org: any value but an empty one)
    :param color: ``auto`` (on a terminal only), ``always`` or ``never``
    :param width: columns of the terminal
    """
    dumb = environ.get("TERM") == "dumb"
    try:
        "".join(entry.text for entry in GLYPHS.values()).encode(stream.encoding or "utf-8")
        plain = False
    except (LookupError, UnicodeEncodeError):
        plain = True
    wanted = stream.isatty() and not dumb and not environ.get("NO_COLOR")
    return Style(width, ascii_only or dumb or plain, {"always": True, "never": False}.get(color, wanted))


def bins_for(width: int) -> int:
    """Bins in a row for a terminal of so many columns: a power of two, so that rows begin at round addresses."""
    return 1 << max(3, (width - _GUTTER - 2).bit_length() - 1)


def map_lines(answer: Document, style: Style) -> Iterator[str]:
    """The map as lines of at most ``style.width`` columns (a terminal of less than 40 is too narrow)."""
    yield from _head(answer, style)
    yield ""
    if not answer["rows"]:
        yield "no RAM and no unaccepted memory here"
        return
    gutter = max(11, max(len(f"{row['start']:#x}") for row in answer["rows"]))
    totals = _row_totals(answer, gutter, style)
    yield from _axis(answer, gutter, bool(totals))
    context = _context(answer)
    gaps = {gap["end"]: gap for gap in answer["left_out"]}
    marked = set()
    for row in answer["rows"]:
        if row["start"] in gaps:
            yield f"{'':{gutter}} {_gap(gaps[row['start']])}"
        yield _row(answer, row, gutter, style) + totals.get(row["start"], "")
        for name, marks in _marks(answer, row):
            marked.add(name)
            yield f"{name:>{gutter}}|{marks}|"
        for name, letters in _lanes(answer, row, context):
            yield f"{name:>{gutter}}|{letters}|"
    yield ""
    yield from _legend(answer, context, marked, style)
    yield from _totals(answer, style)


def kind(row: Document, index: int, bytes_per_bin: int) -> Kind:
    """What the bin shows as. Unaccepted memory is never hidden; unknown memory never looks like accepted memory."""
    unaccepted = row["unaccepted_bytes"][index]
    if unaccepted:
        if unaccepted == row["guard_bytes"][index]:
            return GUARD
        return level(unaccepted, bytes_per_bin)
    if row["unknown_bytes"][index]:
        return UNKNOWN
    ram = row["ram_bytes"][index]
    if ram:
        return OUTSIDE if row["uncovered_bytes"][index] == ram else ACCEPTED
    return RESERVED if row["reserved_bytes"][index] else HOLE


def level(unaccepted: int, whole: int) -> int:
    """Eighths of a bin: 0 only for none of its bytes, 8 only for all."""
    if not 0 < unaccepted < whole:
        return 8 if unaccepted else 0
    return max(1, min(7, round(unaccepted * 8 / whole)))


def _head(answer: Document, style: Style) -> Iterator[str]:
    source = answer["source"]
    if source != "none":
        source += ", exact" if answer["exact"] else ", not exact"
    if answer["source_reason"] is not None:
        source += f" ({safe(answer['source_reason'])})"
    yield from say("source", source, style)
    for note in answer["torn"]:
        yield from say("torn", safe(note), style)
    yield from say("scale", ", ".join(scale(answer)), style)
    if answer["covered"] is not None:
        yield from say("bitmap", f"covers {span(*answer['covered'])}, {size(answer['covered_bytes'])}", style)
    if answer["memory_from"] is None:
        yield from say("RAM", "no e820 table, EFI map or zone says what is RAM here", style)
    elif answer["memory_from"] != "e820":
        teller = "EFI memory map" if answer["memory_from"] == "efi" else "spans of the zones"
        yield from say("RAM", f"from the {teller}: no e820 table was captured", style)


def scale(answer: Document) -> list[str]:
    """Bytes of a bin and of a row, in words."""
    units = answer["units_per_bin"]
    row = answer["bytes_per_bin"] * answer["bins_per_row"]
    parts = [f"1 character is {size(answer['bytes_per_bin'])}"]
    if answer["covered"] is not None and units >= 8:
        parts.append(f"{count(units // 8, 'byte')} of the bitmap")
    parts.append(f"{count(units, 'unit')} of {size(answer['unit_size'])}")
    if answer["unit_size_from"] != "table":
        parts[-1] += " (assumed)"
    return [*parts, f"1 row is {size(row)}"]


def about(nbytes: int) -> str:
    """Bytes with one decimal where they are not whole: ``1529.5 MiB``. The document has them exact."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= 10 * unit and nbytes % unit:
            return f"{nbytes / unit:.1f} {name}"
    return size(nbytes)


def _axis(answer: Document, gutter: int, heads_totals: bool) -> Iterator[str]:
    """Offsets in a row, over the columns that they stand for."""
    columns = answer["bins_per_row"]
    step = _TICK if columns >= 2 * _TICK else columns
    ticks = range(0, columns, step)
    yield (
        f"{'':{gutter}} "
        + "".join(f"+{size(tick * answer['bytes_per_bin']) if tick else 0}".ljust(step) for tick in ticks).rstrip()
    )
    ticks_line = f"{'':{gutter}} " + "".join("'".ljust(step) for _ in ticks)
    yield f"{ticks_line}  {_HEADING}" if heads_totals else ticks_line.rstrip()


#: Over the units of each row: how many are unaccepted, of how many that are RAM.
_HEADING = "units/RAM"


def _row_totals(answer: Document, gutter: int, style: Style) -> dict[int, str]:
    """What stands on the right of rows, by their start; empty where there is no room."""
    totals = {
        row["start"]: f" {sum(row['unaccepted_units']):>5}/{sum(row['ram_bytes']) // answer['unit_size']}"
        for row in answer["rows"]
    }
    widest = max(len(_HEADING) + 1, *map(len, totals.values()))
    return totals if gutter + answer["bins_per_row"] + 2 + widest <= style.width else {}


def _row(answer: Document, row: Document, gutter: int, style: Style) -> str:
    columns = answer["bins_per_row"]
    kinds = [kind(row, index, answer["bytes_per_bin"]) for index in range(columns)]
    text = f"{row['start']:#{gutter}x}|"
    for color, run in groupby(kinds, lambda of: GLYPHS[of].color):
        text += paint("".join(glyph(of, style) for of in run), color, style)
    return text + "|"


def _gap(gap: Document) -> str:
    length = size(gap["end"] - gap["start"])
    if gap["ram_bytes"]:
        return f"{length} before the first row"
    return f"{length} without RAM" + (f", {size(gap['reserved_bytes'])} reserved" if gap["reserved_bytes"] else "")


@dataclass
class _Lane:
    name: str
    #: ``(start, end, value)``, sorted by start.
    segments: Sequence[tuple[int, int, str]]
    #: What the letters stand for; None for zones, which are drawn with their names.
    meanings: Optional[dict[str, str]]
    #: The value at the end of the last row that was drawn.
    last: Optional[str] = None
    drawn: set[str] = field(default_factory=set)


def _context(answer: Document) -> list[_Lane]:
    """The lanes that are known. Values are letters, for zones node and name."""
    maps = answer["lanes"]
    found = []
    for name, key, letters in (("EFI", "efi", dict(enumerate(_EFI))), ("e820", "e820", _E820)):
        if maps[key] is not None:
            segments = [(s["start"], s["end"], letters.get(s["type"], _OTHER)) for s in maps[key]]
            meanings = {letters[s["type"]]: s["name"] for s in maps[key] if s["type"] in letters}
            found.append(_Lane(name, segments, {**meanings, _OTHER: "another type", _SEVERAL: "several"}))
    if maps["zones"] is not None:
        segments = [(s["start"], s["end"], f"{s['node']} {safe(s['name'])}") for s in maps["zones"]]
        found.append(_Lane("zone", sorted(segments), None))
    return found


def _lanes(answer: Document, row: Document, context: Sequence[_Lane]) -> Iterator[tuple[str, str]]:
    """The lanes under a row that differ from what was drawn last."""
    start, bin_, columns = row["start"], answer["bytes_per_bin"], answer["bins_per_row"]
    for lane in context:
        values = _values(lane.segments, start, bin_, columns)
        seen = set(values)
        if seen == {None} or seen == {lane.last}:
            continue
        lane.last = values[-1]
        lane.drawn.update(value for value in values if value is not None)
        if lane.meanings is None:
            starts = {(at - start) // bin_ for at, _, _ in lane.segments if start <= at < start + bin_ * columns}
            yield lane.name, _names(values, starts)
        else:
            yield lane.name, "".join(value or " " for value in values)


def _marks(answer: Document, row: Document) -> Iterator[tuple[str, str]]:
    """What a glyph for unaccepted memory cannot show beside it."""
    bins = zip(row["unaccepted_bytes"], row["guard_bytes"], row["unknown_bytes"])
    flight = [(*run, "a") for run in answer["lanes"]["accepting"] or ()]
    accepting = _values(flight, row["start"], answer["bytes_per_bin"], answer["bins_per_row"])
    guard, unknown = zip(*(("g" if 0 < g < here else " ", "?" if here and some else " ") for here, g, some in bins))
    for name, marks in (("guard", guard), ("unknown", unknown), ("accepting", [value or " " for value in accepting])):
        if any(mark != " " for mark in marks):
            yield name, "".join(marks)


def _values(segments: Iterable[tuple[int, int, str]], start: int, bin_: int, columns: int) -> list[Optional[str]]:
    """What each bin of a row lies in: a value, several, or None."""
    values: list[Optional[str]] = [None] * columns
    for low, high, value in segments:
        if low >= start + bin_ * columns:
            break
        for index in range(max(0, (low - start) // bin_), min(columns, -(-(high - start) // bin_))):
            values[index] = value if values[index] in (None, value) else _SEVERAL
    return values


def _names(values: Sequence[Optional[str]], starts: set[int]) -> str:
    """Runs of one name, ``[`` where it begins: ``[0 DMA32-----[0 Normal---``."""
    text = ""
    for value, run in groupby(values):
        length = len(list(run))
        if value is None or value == _SEVERAL:
            text += (value or " ") * length
        else:
            text += (("[" if len(text) in starts else "-") + value)[:length].ljust(length, "-")
    return text


def _legend(answer: Document, context: Sequence[_Lane], marked: set[str], style: Style) -> Iterator[str]:
    eighths = [GLYPHS[level] for level in range(1, 8)]
    shown: list[tuple[str, str, str]] = []
    for of, entry in GLYPHS.items():
        if isinstance(of, int) and of < 8:
            if of == 1:
                text = "1-7" if style.ascii else "".join(g.text for g in eighths)
                shown.append((text, entry.color, _parts(answer, text[0])))
            continue
        text = glyph(of, style)
        shown.append((f"'{text}'" if text == " " else text, entry.color, entry.meaning))
    items = [
        (paint(text, color, style) + f" {meaning}", len(text) + 1 + len(meaning)) for text, color, meaning in shown
    ]
    yield from _flow("legend", items, style)
    if marked:
        texts = [text for name, text in MARKS.items() if name in marked]
        yield from _flow("marks", [(text, len(text)) for text in texts], style)
    for lane in context:
        if not lane.drawn:
            continue
        if lane.meanings is None:
            texts = [f"{value} {span(low, high)}" for low, high, value in lane.segments if value in lane.drawn]
            texts += ["[ begins"]
        else:
            texts = [f"{letter} {lane.meanings[letter]}" for letter in sorted(lane.drawn, key=_letters_first)]
        yield from _flow(lane.name, [(text, len(text)) for text in texts], style)
    if answer["lanes"]["efi_complete"] is False:
        yield from say("", f"the EFI map is incomplete, from the {answer['lanes']['efi_provenance']}", style)
    if len(answer["rows"]) > 1 and context:
        yield from say("lanes", "are drawn where they differ from the row above", style)


def _parts(answer: Document, least: str) -> str:
    """What the glyphs between none and all of a bin stand for."""
    if answer["units_per_bin"] == 8 and answer["totals"]["unaccepted_bytes"] % answer["unit_size"] == 0:
        return "1 to 7 units unaccepted"
    if answer["units_per_bin"] > 8:
        return f"eighths unaccepted, {least} from one unit on"
    return "1 to 7 eighths unaccepted"


def _letters_first(letter: str) -> tuple[bool, str]:
    return not letter.isalpha(), letter


def _totals(answer: Document, style: Style) -> Iterator[str]:
    totals = answer["totals"]
    parts = [unaccepted(answer, size) + (f" in {count(totals['units'], 'unit')}" if totals["units"] else "")]
    parts.append(f"RAM {about(totals['ram_bytes'])}")
    for key, words in (
        ("unknown_bytes", "of it unknown"),
        ("uncovered_bytes", "of it outside the bitmap"),
        ("reserved_bytes", "reserved"),
    ):
        if totals[key]:
            parts.append(f"{about(totals[key])} {words}")
    yield from say("shown" if answer["window"] else "total", ", ".join(parts), style)
    if answer["window"]:
        yield from say("total", f"{size(answer['unaccepted_bytes'])} unaccepted in the whole guest", style)


def unaccepted(answer: Document, in_words: Callable[[int], str], of: str = "") -> str:
    """How much of what is shown is unaccepted, and ``of`` what, where a number is known."""
    nbytes = answer["totals"]["unaccepted_bytes"]
    if answer["source"] == "none" and answer["table"]["state"] == "absent":
        return "no table, nothing for the kernel to accept"
    # A source that may lack some has no total.
    least = "at least " if answer["unaccepted_bytes"] is None else ""
    return f"{least}{in_words(nbytes)} unaccepted{of}"


def glyph(of: Kind, style: Style) -> str:
    """The character for what a bin shows as."""
    return GLYPHS[of].ascii if style.ascii else GLYPHS[of].text


def paint(text: str, color: str, style: Style) -> str:
    """``text`` in a colour, where there are any."""
    return f"\x1b[{color}m{text}\x1b[0m" if style.color else text


def say(name: str, text: str, style: Style) -> Iterator[str]:
    """``name`` and a sentence, wrapped."""
    indent = " " * _LABEL
    yield from textwrap.wrap(
        text, style.width, initial_indent=f"{name:{_LABEL}}", subsequent_indent=indent, break_on_hyphens=False
    )


def _flow(name: str, items: Iterable[tuple[str, int]], style: Style) -> Iterator[str]:
    """``name`` and the items, wrapped between items; each comes with the columns that it takes."""
    line, used, gap = f"{name:{_LABEL}}", _LABEL, ""
    for text, length in items:
        if gap and used + len(gap) + length > style.width:
            yield line
            line, used, gap = " " * _LABEL, _LABEL, ""
        line += gap + text
        used += len(gap) + length
        gap = "  "
    yield line
