# SPDX-License-Identifier: LGPL-2.1-or-later
"""The map on a terminal: whole pictures compared with golden files, and each rule of the drawing by itself; its bins
compared with a model that looks at each unit by itself, and with what real guests recorded.

The golden files were checked line by line against the numbers in ``guests.py``. ``GOLDEN=write`` writes them again.
"""

from __future__ import annotations

import io
import os
import re
import sys
from argparse import Namespace
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.documents import MapAnswer
from drgn_unaccepted.answer.evidence import Evidence
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.map import map_document
from drgn_unaccepted.commands import _drawing
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import ALL_MEMORY, Counters, Snapshot, Table, Wanted
from drgn_unaccepted.targets.vmcore import open_vmcore
from drgn_unaccepted.views.map import Style, bins_for, map_lines
from tests.asking import SAMPLES, Patch, truth
from tests.test_samples import NAMES
from tests.views import guests
from tests.views.guests import BASE, GIB, MIB, UNIT

GOLDEN = Path(__file__).parent / "golden"
#: The multiplication sign.
RESERVED = "\u00d7"
STAIRS = " ▁▂▃▄▅▆▇█"
UNITS = str.maketrans("01", " █")
ESCAPE = re.compile("\x1b\\[[0-9;]*m")

GUESTS = {"small": guests.small, "lists": guests.lists, "huge": guests.huge, "uneven": guests.uneven}


def answer_of(snapshot: Snapshot, width: int, window: Any = None, source: str = "auto") -> MapAnswer:
    bins, where = bins_for(width), None if window is None else Range(*window)
    return map_document(snapshot, judge(snapshot, source), window=where, columns=min(64, bins), wide=bins)


@cache
def huge_answer(width: int) -> MapAnswer:
    return answer_of(guests.huge(), width)


def drawn(snapshot: Snapshot, width: int = 80, *, ascii_only: bool = False, **how: Any) -> list[str]:
    return list(map_lines(answer_of(snapshot, width, **how), Style(width, ascii_only, False)))


def row(lines: list[str], label: str) -> str:
    """What is drawn between the bars of the one row with this label."""
    (found,) = [line.split("|")[1] for line in lines if line.split("|")[0].strip() == label]
    return found


def words(lines: list[str]) -> str:
    """All text, however it was wrapped."""
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize(("name", "width", "ascii_only"), (("small", 132, False), ("uneven", 60, True)))
def test_golden(name: str, width: int, ascii_only: bool) -> None:
    lines = drawn(GUESTS[name](), width, ascii_only=ascii_only)
    path = GOLDEN / f"map-{name}-{width}{'-ascii' if ascii_only else ''}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert path.read_text(encoding="utf-8").splitlines() == lines


@pytest.mark.parametrize("name", GUESTS)
def test_lines_fit_in_characters_that_the_terminal_has(name: str) -> None:
    for width in (80, 150):
        answer = huge_answer(width) if name == "huge" else answer_of(GUESTS[name](), width)
        lines = list(map_lines(answer, Style(width, False, False)))
        ascii_lines = list(map_lines(answer, Style(width, True, False)))
        assert max(map(len, [*lines, *ascii_lines])) <= width
        assert "".join(ascii_lines).isascii() and not "".join(lines).isascii()
        # Colour repeats what the characters say, and everything is switched off again.
        colored = list(map_lines(answer, Style(width, False, True)))
        assert [ESCAPE.sub("", line) for line in colored] == lines
        assert any("\x1b[38;5;214;48;5;24m" in line for line in colored), "orange on blue"
        assert all("\x1b" not in line[line.rfind("\x1b[0m") + 4 :] for line in colored if "\x1b" in line)


def test_the_legend_says_from_where_on_the_least_glyph_is_drawn() -> None:
    for is_ascii, said in ((False, "▁▂▃▄▅▆▇ eighths unaccepted, ▁ from"), (True, "1-7 eighths unaccepted, 1 from")):
        assert f"{said} one unit on" in words(list(map_lines(huge_answer(150), Style(150, is_ascii, False))))
    assert "1 to 7 units unaccepted" in words(drawn(guests.small(), 132))
    # What is not drawn is not explained.
    assert "eighths" not in words(drawn(guests.large_units(), source="page-lists"))


def test_without_a_table_there_is_nothing_to_accept() -> None:
    absent = Table("absent", "efi.unaccepted is all ones")
    snapshot = replace(guests.only_bitmap(guests.small()), table=absent, counters=Counters(1000, 0, 0), zones=())
    assert "total no table, nothing for the kernel to accept, RAM 2031.6 MiB" in words(drawn(snapshot))
    # What was not captured is something else.
    unknown = replace(snapshot, table=guests.NOT_CAPTURED, counters=None)
    assert "total at least 0 unaccepted, RAM 2031.6 MiB, 2031.6 MiB of it unknown" in words(drawn(unknown))


def test_the_legend_names_no_lane_that_is_not_drawn() -> None:
    window = drawn(guests.small(), window=(0x80000000, 0x90000000))
    assert [line for line in window if line.startswith(("EFI", "e820"))] == []
    assert [line for line in window if line.startswith("zone")] == ["zone    0 DMA32 0x1000000-0x100000000  [ begins"]


def test_page_lists_say_what_they_do_not_know() -> None:
    lines = drawn(guests.lists())
    assert lines[0].startswith("total   96 MiB to 1152 MiB unaccepted, 388 MiB listed in 194 units, RAM")
    assert lines[2] == "source  page-lists, not exact; the table is not in this dump: kdump omits ACPI"
    # 4 GiB to 128 MiB above is in use; then nothing is known up to 256 MiB but the one chunk; then free pages.
    # Both units of that chunk are at an edge of its run.
    assert row(lines, "0x100000000") == " " * 8 + "????" + "▒" + "???" + " " * 16 + "█" * 24 + "?" * 8
    # Of the 16 MiB with the one chunk 12 MiB are unknown; the long run has an edge at each end.
    assert row(lines, "unknown") == " " * 12 + "?" + " " * 51
    assert row(lines, "guard") == " " * 32 + "g" + " " * 22 + "g" + " " * 8
    # Nothing is said about the pages of node 1.
    assert row(lines, "0x140000000") == "?" * 32 + "·" * 32
    # 8 units from 0x10c000000: two that are listed, each at an edge of the run, 6 unknown.
    for ascii_only, guard in ((False, "▒▒"), (True, "gg")):
        zoom = drawn(guests.lists(), window=(0x10C000000, 0x10D000000), ascii_only=ascii_only)
        assert row(zoom, "0x10c000000") == guard + "?" * 6
    # Counters know no addresses.
    assert set(row(drawn(guests.lists(), source="counters"), "0x100000000")) == {"?"}


def test_range_zooms_to_single_units() -> None:
    lines = drawn(guests.small(), window=(BASE, BASE + 128 * MIB))
    # Eight bytes with 0 to 7 bits set, of 8 units each; the lowest bit comes first.
    stairs = "".join(f"{byte:08b}"[::-1] for byte in guests.STAIRS[:8]).translate(UNITS)
    assert row(lines, "0x100000000") == stairs
    assert "scale   1 character is 2 MiB, 1 unit of 2 MiB, 1 row is 128 MiB" in lines
    assert "shown   56 MiB unaccepted in 28 units, RAM 128 MiB" in lines
    assert "guest   456 MiB unaccepted in all" in lines
    # What was asked for is drawn, no more: from the second unit on, and a row is no longer than it.
    lines = drawn(guests.small(), window=(BASE + 3 * MIB, BASE + 20 * MIB))
    assert row(lines, "0x100200000") == stairs[1:10]


def test_a_large_guest_is_binned_to_the_width() -> None:
    narrow, wide = (list(map_lines(huge_answer(width), Style(width, False, False))) for width in (80, 150))
    said = "1 character is 4 GiB, 256 bytes of the bitmap, 2048 units of 2 MiB, 1 row is 256 GiB"
    assert said in words(narrow)
    assert "1 character is 2 GiB, 128 bytes of the bitmap, 1024 units of 2 MiB, 1 row is 256 GiB" in words(wide)
    assert len(row(wide, "0x60000000000")) == 128
    # Node 1 from 0x50100000000 has one unit in eight.
    assert set(row(narrow, "0x60000000000")) == {"▁"}
    # Half of node 0: 2.5 TiB above 4 GiB is accepted up to 0x28100000000, and the byte there is full.
    assert row(narrow, "0x24000000000") == " " * 64
    assert row(narrow, "0x28000000000") == " " + "█" * 63


@pytest.mark.parametrize(("value", "glyph"), ((b"\x00", "▁"), (b"\xff", "▇")))
def test_one_unit_of_ten_tib_is_visible(value: bytes, glyph: str) -> None:
    assert "".join(drawn(guests.one_unlike_all_others(value))[:-12]).count(glyph) >= 1


def test_without_e820_another_map_tells_what_is_ram() -> None:
    lines = drawn(replace(guests.small(), e820=None))
    assert "RAM     from the EFI memory map: no e820 table was captured" in lines
    assert row(lines, "0x0") == "-" * 31 + RESERVED + "·" * 32
    # Without any, nothing is called a hole.
    lines = drawn(replace(guests.only_bitmap(guests.small()), e820=None))
    assert "RAM     no e820 table, EFI map or zone says what is RAM here" in lines
    assert row(lines, "0x100000000")[:9] == STAIRS


def test_unaccepted_memory_outside_ram_is_shown() -> None:
    small = guests.small()
    kexec = replace(small.kernel, kexec_booted=True)  # e820 is the earlier kernel's
    lines = drawn(replace(small, e820=guests.e820(*guests.LOW_RAM), kernel=kexec))
    assert row(lines, "0x100000000") == "·" + STAIRS[1:] + "·" * 23 + "█" * 24 + "·" * 8


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "color", "encoding", "style"),
    (
        ({}, "auto", "utf-8", (False, True)),
        ({"NO_COLOR": "1"}, "auto", "utf-8", (False, False)),
        ({"NO_COLOR": ""}, "auto", "utf-8", (False, True)),
        ({"NO_COLOR": "1"}, "always", "utf-8", (False, True)),
        ({}, "never", "utf-8", (False, False)),
        ({}, "auto", "latin-1", (True, True)),
        ({"TERM": "dumb"}, "auto", "utf-8", (True, False)),
    ),
)
def test_style_of_a_terminal(environment: Any, color: str, encoding: str, style: Any, monkeypatch: Patch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal(io.BytesIO(), encoding=encoding))
    assert _drawing.style(Namespace(width=80, ascii=False, color=color)) == Style(80, *style)


# Bins


def answer(snapshot: Snapshot, **how: Any) -> MapAnswer:
    return map_document(snapshot, judge(snapshot), **how)


def of_bits(snapshot: Snapshot, **how: Any) -> MapAnswer:
    """From the bitmap, although nothing else agrees with it."""
    judgement = Judgement(Evidence(snapshot), "bitmap", None, None, snapshot.table.geometry)
    return map_document(snapshot, judgement, **how)


def with_ram(bitmap: bytes, first_unit: int, ram: list[tuple[int, int]]) -> Snapshot:
    """A guest with this bitmap and this RAM, in units."""
    e820 = guests.e820(*((start * UNIT, end * UNIT) for start, end in ram))
    return replace(guests.only_bitmap(guests.small()), table=guests.table(bitmap, first_unit * UNIT), e820=e820)


runs = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), max_size=4).map(
    lambda pairs: [(start, start + length) for start, length in pairs]
)


# A set bit outside RAM, in a byte of the bitmap that is RAM in part.
@example(bitmap=b"\x40", first_unit=2, ram=[(0, 3)], columns=8, finest=1, window=None)
@settings(max_examples=50, deadline=None)
@given(
    bitmap=st.binary(min_size=1, max_size=24),
    first_unit=st.integers(0, 40),
    ram=runs,
    columns=st.sampled_from((8, 16, 64)),
    finest=st.sampled_from((1, 2, 4, 8, 16)),
    window=st.none() | st.tuples(st.integers(0, 300), st.integers(1, 200)),
)
def test_each_bin_holds_what_its_units_say(
    bitmap: bytes,
    first_unit: int,
    ram: list[tuple[int, int]],
    columns: int,
    finest: int,
    window: Optional[tuple[int, int]],
) -> None:
    is_ram = {unit for start, end in ram for unit in range(start, end)}
    is_set = {first_unit + bit for bit in range(8 * len(bitmap)) if bitmap[bit // 8] >> bit % 8 & 1}
    asked = None if window is None else Range(window[0] * UNIT, (window[0] + window[1]) * UNIT)
    got = of_bits(with_ram(bitmap, first_unit, ram), columns=columns, finest=finest, window=asked)
    wanted = range(1 << 20) if window is None else range(window[0], window[0] + window[1])
    per_bin = got["units_per_bin"]
    assert per_bin >= finest and got["bytes_per_bin"] == per_bin * UNIT
    drawn = set()
    for row in got["rows"]:
        assert row["start"] % UNIT == 0
        for index in range(got["bins_per_row"]):
            first = row["start"] // UNIT + index * per_bin
            units = set(range(first, first + per_bin)).intersection(wanted)
            drawn.update(units)
            assert row["unaccepted_units"][index] == len(is_set.intersection(units))
            assert row["unaccepted_bytes"][index] == len(is_set.intersection(units)) * UNIT
            assert row["ram_bytes"][index] == len(is_ram.intersection(units)) * UNIT
            covered = range(first_unit, first_unit + 8 * len(bitmap))
            assert row["uncovered_bytes"][index] == len(is_ram.intersection(units).difference(covered)) * UNIT
            assert row["unknown_bytes"][index] == 0
            # A bin of a byte or more is whole bytes of the bitmap.
            assert per_bin < 8 or (first - first_unit) % 8 == 0 or asked is not None
    before = got["left_out"][0]["ram_bytes"] if got["left_out"] else 0
    assert all(gap["ram_bytes"] == 0 for gap in got["left_out"][1:])
    if asked is None:
        assert is_set <= drawn
        assert len(is_ram - drawn) * UNIT == before
    else:
        assert (is_set | is_ram) & set(wanted) <= drawn
    assert got["totals"]["units"] == len(is_set & drawn)


@pytest.mark.parametrize("name", NAMES)
def test_samples_against_what_the_guest_said(name: str) -> None:
    """The units that the guest never accepted, counted by bin, from its own account."""
    opened = open_vmcore(str(SAMPLES / name / "vmcore"))
    snapshot = capture(opened, Wanted(frozenset(("kernel", "zones", "counters", "e820")), ALL_MEMORY))
    got = answer(snapshot)
    never = set(truth(name)["unaccepted_units"])
    known = got["source"] == "bitmap"
    assert got["bytes_per_bin"] == 8 * UNIT
    for row in got["rows"]:
        for index in range(64):
            first = row["start"] // UNIT + index * 8
            units = len(never.intersection(range(first, first + 8)))
            count = row["unaccepted_units"][index]
            if known and "panic" not in name:
                assert count == units, hex(row["start"] + index * 8 * UNIT)
            else:
                # A listed chunk can hold units that are accepted, at the edges of its run; a dying guest went on.
                assert count >= units - 8 * (not known and row["unknown_bytes"][index] > 0)
                assert count - units <= row["guard_units"][index] or "panic" in name
    if known:
        assert got["totals"]["units"] * UNIT == got["unaccepted_bytes"]


def test_a_guest_of_4_pib_makes_few_rows() -> None:
    """The largest bitmap that is read, of which a byte in the middle is set."""
    nbytes = limits.BITMAP_BYTES
    snapshot = with_ram(bytes(nbytes // 2) + b"\xff" + bytes(nbytes // 2 - 1), 0, [(0, 8 * nbytes)])
    got = of_bits(snapshot, columns=64, wide=128)
    assert len(got["rows"]) <= 64
    assert got["bins_per_row"] == 128
    assert got["totals"]["units"] == 8
    assert sum(1 for row in got["rows"] for units in row["unaccepted_units"] if units) == 1


def test_e820_from_the_target_is_cut_at_the_end_of_physical_memory() -> None:
    e820 = guests.e820((0, 1 << 64), (1 << 60, 1 << 61), (5, 5), more=(E820Entry(7, 3, 2),))
    got = answer(replace(guests.small(), e820=e820))
    assert got["totals"]["ram_bytes"] <= 1 << 52
    assert len(got["rows"]) <= 64


def test_the_higher_type_wins_where_entries_overlap() -> None:
    e820 = guests.e820((0, 64 * MIB), more=(E820Entry(16 * MIB, 32 * MIB, 2),))
    got = answer(replace(guests.uneven(), e820=e820, table=guests.NOT_CAPTURED))
    assert got["rows"][0]["ram_bytes"][:5] == [16 * MIB, 0, 16 * MIB, 16 * MIB, 0]
    assert got["rows"][0]["reserved_bytes"][:5] == [0, 16 * MIB, 0, 0, 0]
    assert [(one["start"], one["type"]) for one in got["lanes"]["e820"] or ()] == [(0, 1), (16 * MIB, 2), (32 * MIB, 1)]


def test_listed_chunks_smaller_than_a_unit_are_counted_as_they_are() -> None:
    got = map_document(guests.large_units(), judge(guests.large_units(), "page-lists"))
    assert got["totals"]["unaccepted_bytes"] == got["unaccepted_bytes"] == 32 * MIB
    # The whole guest is one bin; each of its units holds something listed.
    assert got["totals"]["units"] == 8
    row = next(row for row in got["rows"] if row["start"] <= BASE)
    index = (BASE - row["start"]) // GIB
    assert (row["unaccepted_units"][index], row["unaccepted_bytes"][index]) == (8, 32 * MIB)


def test_a_saved_table_is_corrected_by_the_lists() -> None:
    """Bits of the saved table that the lists do not confirm are not drawn as unaccepted."""
    saved = guests.table(guests.BITMAP, read_through="file", same_boot=True)
    got = answer(replace(guests.with_chunks(guests.lists(), *range(0x120000000, 0x138000000, 4 * MIB)), table=saved))
    assert (got["source"], got["exact"]) == ("reconstructed", False)
    row = next(row for row in got["rows"] if row["start"] == BASE)
    # The first 128 MiB are in use now. The first unit of the listed run can be a guard.
    assert row["unaccepted_units"] == [0] * 32 + [7] + [8] * 23 + [0] * 8
    # Units 64 to 71, the full byte of the stairs, are neither listed nor used by a known page.
    assert row["unknown_bytes"] == [0] * 8 + [8 * UNIT] + [0] * 23 + [UNIT] + [0] * 31
