# SPDX-License-Identifier: LGPL-2.1-or-later
"""The map on a terminal: whole pictures compared with golden files, and each rule of the drawing by itself.

The golden files were checked line by line against the numbers in ``guests.py``. ``GOLDEN=write`` writes them again.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from drgn_unaccepted.answer.judgement import judge
from drgn_unaccepted.answer.map import map_document
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import E820Tables, Snapshot, Table
from drgn_unaccepted.views.map import Style, bins_for, map_lines, style_for
from tests.views import guests
from tests.views.guests import BASE, GIB, MIB

GOLDEN = Path(__file__).parent / "golden"
#: The multiplication sign.
RESERVED = "\u00d7"
ESCAPE = re.compile("\x1b\\[[0-9;]*m")

GUESTS = {"small": guests.small, "lists": guests.lists, "huge": guests.huge, "uneven": guests.uneven}


def drawn(
    snapshot: Snapshot,
    width: int = 80,
    *,
    ascii_only: bool = False,
    color: bool = False,
    window: tuple[int, int] | None = None,
    source: str = "auto",
) -> list[str]:
    bins = bins_for(width)
    answer = map_document(
        snapshot,
        judge(snapshot, source),
        window=None if window is None else Range(*window),
        columns=min(64, bins),
        wide=bins,
    )
    return list(map_lines(answer, Style(width, ascii_only, color)))


def row(lines: list[str], label: str) -> str:
    """What is drawn between the bars of the one row with this label."""
    found = [line.split("|")[1] for line in lines if line.split("|")[0].strip() == label]
    assert len(found) == 1, (label, found)
    return found[0]


def words(lines: list[str]) -> str:
    """All text, however it was wrapped."""
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize(
    ("name", "width", "ascii_only"),
    (
        ("small", 132, False),
        ("lists", 80, False),
        ("uneven", 60, True),
    ),
)
def test_golden(name: str, width: int, ascii_only: bool) -> None:
    lines = drawn(GUESTS[name](), width, ascii_only=ascii_only)
    path = GOLDEN / f"map-{name}-{width}{'-ascii' if ascii_only else ''}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert path.read_text(encoding="utf-8").splitlines() == lines


@pytest.mark.parametrize("name", GUESTS)
def test_lines_fit_in_characters_that_the_terminal_has(name: str) -> None:
    for width in (60, 80, 132):
        lines, ascii_lines = drawn(GUESTS[name](), width), drawn(GUESTS[name](), width, ascii_only=True)
        assert max(map(len, [*lines, *ascii_lines])) <= width
        assert "".join(ascii_lines).isascii() and not "".join(lines).isascii()


def test_one_character_is_one_byte_of_the_bitmap() -> None:
    lines = drawn(guests.small())
    stairs, full = " ▁▂▃▄▅▆▇█", "█" * 24
    assert row(lines, "0x100000000") == stairs + " " * 23 + full + " " * 8
    assert row(drawn(guests.small(), ascii_only=True), "0x100000000") == "012345678" + "0" * 23 + "8" * 24 + "0" * 8
    assert "1 character is 16 MiB, 1 byte of the bitmap, 8 units of 2 MiB, 1 row is 1 GiB" in words(lines)


def test_what_has_no_bits_does_not_look_accepted() -> None:
    lines = drawn(guests.small())
    # 496 MiB of RAM below the bitmap (31 characters), 16 MiB reserved, no RAM up to the end of the row.
    assert row(lines, "0x0") == "-" * 31 + RESERVED + "·" * 32
    # 512 MiB of RAM above the bitmap.
    assert row(lines, "0x140000000") == "-" * 32 + "·" * 32
    assert any("3 GiB without RAM, 256 MiB reserved" in line for line in lines)


def test_totals() -> None:
    lines = drawn(guests.small(), 132)
    ram = 0xA0000 - 0x1000 + 495 * MIB + GIB + GIB // 2
    assert guests.SET_UNITS == 228
    assert next(line for line in lines if line.startswith("total")) == (
        f"total   456 MiB unaccepted in 228 units, RAM {ram / GIB:.2f} GiB, "
        f"{(ram - GIB) / MIB:.0f} MiB of it outside the bitmap, {(16 * MIB + 4096) / MIB:.1f} MiB reserved"
    )
    assert any(re.search(r"^0x100000000\|.*\| +228/512$", line) for line in lines)


def test_the_numbers_of_rows_have_a_heading_above_them() -> None:
    lines = drawn(guests.small(), 132)
    heading = next(line for line in lines if line.endswith("units/RAM"))
    numbers = next(line for line in lines if line.endswith("228/512"))
    assert heading.rindex("/") == numbers.rindex("/")
    # Where there is no room for numbers there is none for it.
    assert not any("units/RAM" in line or "228/512" in line for line in drawn(guests.small(), 80))


def test_the_legend_says_from_where_on_the_least_glyph_is_drawn() -> None:
    assert "▁▂▃▄▅▆▇ eighths unaccepted, ▁ from one unit on" in words(drawn(guests.huge(), 132))
    assert "1-7 eighths unaccepted, 1 from one unit on" in words(drawn(guests.huge(), 132, ascii_only=True))
    assert "1 to 7 units unaccepted" in words(drawn(guests.small(), 132))
    # Less than a unit is listed.
    assert "1 to 7 eighths unaccepted" in words(drawn(guests.large_units(), source="page-lists"))


def test_without_a_table_there_is_nothing_to_accept() -> None:
    absent = Table("absent", "efi.unaccepted is all ones")
    counters = guests.Counters(1000, 0, 0)
    snapshot = replace(guests.small(), table=absent, counters=counters, zones=())
    lines = drawn(snapshot)
    assert "total no table, nothing for the kernel to accept, RAM 1.98 GiB" in words(lines)
    # What was not captured is something else.
    unknown = replace(snapshot, table=guests.NOT_CAPTURED, counters=None, missing={"counters": "broken"})
    assert "total at least 0 bytes unaccepted, RAM 1.98 GiB, 1.98 GiB of it unknown" in words(drawn(unknown))


def test_a_window_without_memory_names_no_lane_that_is_not_drawn() -> None:
    lines = drawn(guests.small(), window=(0x80000000, 0x90000000))
    assert [line for line in lines if line.startswith(("EFI", "e820"))] == []
    assert [line for line in lines if line.startswith("zone")] == ["zone    0 DMA32 0x1000000-0x100000000  [ begins"]
    assert not any(line.startswith("zone") for line in drawn(guests.small(), window=(0x180000000, 0x190000000)))


def test_lanes_are_drawn_where_they_change() -> None:
    lines = drawn(guests.small())
    efi = [line.split("|")[1] for line in lines if line.strip().startswith("EFI|")]
    assert efi == [
        # 0 to 32 MiB: 640 KiB conventional and boot services data, boot services data; then conventional, runtime.
        "*B" + "C" * 29 + "T" + " " * 32,
        # type 15 up to 128 MiB before the end.
        "U" * 56 + "C" * 8,
        # "C" goes on over half of the last row.
        "C" * 32 + " " * 32,
    ]
    zones = [line.split("|")[1] for line in lines if line.strip().startswith("zone|")]
    assert zones == ["[" + "[0 DMA32".ljust(63, "-"), "[0 Normal".ljust(64, "-"), "[1 Normal".ljust(32, "-") + " " * 32]


def test_an_accept_in_flight_is_marked() -> None:
    # Units 4 and 5 are in the first byte of the bitmap.
    assert row(drawn(guests.small()), "accepting") == "a" + " " * 63


def test_page_lists_say_what_they_do_not_know() -> None:
    lines = drawn(guests.lists())
    assert lines[0] == "source  page-lists, not exact (bitmap: table not-captured: the page is not in"
    # 4 GiB to 128 MiB above is in use; then nothing is known up to 256 MiB but the one chunk; then free pages.
    # Both units of that chunk are at an edge of its run.
    assert row(lines, "0x100000000") == " " * 8 + "????" + "▒" + "???" + " " * 16 + "█" * 24 + "?" * 8
    # Of the 16 MiB with the one chunk 12 MiB are unknown.
    assert row(lines, "unknown") == " " * 12 + "?" + " " * 51
    # Nothing is said about the pages of node 1.
    assert row(lines, "0x140000000") == "?" * 32 + "·" * 32


def test_possible_guards_have_their_glyph_where_a_character_is_a_unit() -> None:
    lines = drawn(guests.lists(), window=(0x10C000000, 0x10D000000))
    # 64 units from 0x108000000: 32 unknown, two that are listed, each at an edge of the run, 30 unknown.
    assert row(lines, "0x108000000") == "?" * 32 + "▒▒" + "?" * 30
    assert row(drawn(guests.lists(), window=(0x10C000000, 0x10D000000), ascii_only=True), "0x108000000") == (
        "?" * 32 + "gg" + "?" * 30
    )


def test_range_zooms_to_single_units() -> None:
    lines = drawn(guests.small(), window=(BASE, BASE + 128 * MIB))
    # Eight bytes with 0 to 7 bits set, lowest bit first, of 8 units each.
    assert row(lines, "0x100000000") == "".join(("█" * n).ljust(8) for n in range(8))
    assert "scale   1 character is 2 MiB, 1 unit of 2 MiB, 1 row is 128 MiB" in lines
    assert "shown   56 MiB unaccepted in 28 units, RAM 128 MiB" in lines
    assert "total   456 MiB unaccepted in the whole guest" in lines


def test_a_large_guest_is_binned_to_the_width() -> None:
    narrow, wide = drawn(guests.huge(), 80), drawn(guests.huge(), 150)
    said = "1 character is 4 GiB, 256 bytes of the bitmap, 2048 units of 2 MiB, 1 row is 256 GiB"
    assert said in words(narrow)
    assert "1 character is 2 GiB, 128 bytes of the bitmap, 1024 units of 2 MiB, 1 row is 256 GiB" in words(wide)
    assert len(row(wide, "0x60000000000")) == 128
    # Node 1 from 0x50100000000 has one unit in eight.
    assert set(row(narrow, "0x60000000000")) == {"▁"}
    # Half of node 0: 2.5 TiB above 4 GiB is accepted up to 0x28100000000, and the byte there is full.
    assert row(narrow, "0x24000000000") == " " * 64
    assert row(narrow, "0x28000000000") == " " + "█" * 63


def test_a_partial_bin_is_never_drawn_as_none_or_all() -> None:
    snapshot = guests.huge()
    for value, glyph in ((b"\x00", "▁"), (b"\xff", "▇")):
        bitmap = bytearray(value * snapshot.table.bitmap_bytes if snapshot.table.bitmap_bytes else 0)
        bitmap[0] ^= 1
        lines = drawn(replace(snapshot, table=guests.table(bytes(bitmap))))
        assert row(lines, "0x0")[1] == glyph


def test_units_larger_than_chunks_are_told_apart_from_what_is_listed_of_them() -> None:
    lines = drawn(guests.large_units(), source="page-lists")
    assert "32 MiB unaccepted in 8 units" in words(lines)
    # A chunk is less than a unit, so that all of it can be a guard.
    assert row(lines, "0x0")[4] == "▒"


def test_characters_are_bytes_where_the_bitmap_begins_unevenly() -> None:
    lines = drawn(guests.uneven())
    assert row(lines, "0x600000")[:8] == "▁▁█ ----"
    assert "            6 MiB before the first row" in lines


def test_without_a_map_nothing_is_called_a_hole() -> None:
    snapshot = replace(guests.small(), e820=None, efi_map=None, zones=None, missing={"e820": "no", "efi_map": "no"})
    lines = drawn(snapshot)
    assert "RAM     no e820 table, EFI map or zone says what is RAM here" in lines
    assert row(lines, "0x100000000")[:9] == " ▁▂▃▄▅▆▇█"


def test_without_e820_the_efi_map_tells_what_is_ram() -> None:
    lines = drawn(replace(guests.small(), e820=None))
    assert "RAM     from the EFI memory map: no e820 table was captured" in lines
    assert row(lines, "0x0") == "-" * 31 + RESERVED + "·" * 32


def test_unaccepted_memory_outside_ram_is_shown() -> None:
    e820 = (*guests.E820[:5],)
    lines = drawn(replace(guests.small(), e820=E820Tables(e820, None, None, None)))
    assert row(lines, "0x100000000") == "·" + "▁▂▃▄▅▆▇█" + "·" * 23 + "█" * 24 + "·" * 8


def test_no_state_at_all() -> None:
    lines = drawn(guests.lists(), source="counters")
    assert set(row(lines, "0x100000000")) == {"?"}


def test_colour_repeats_what_the_characters_say() -> None:
    for name, guest in GUESTS.items():
        plain, colored = drawn(guest(), 132), drawn(guest(), 132, color=True)
        assert [ESCAPE.sub("", line) for line in colored] == plain, name
    text = "\n".join(drawn(guests.small(), 132, color=True))
    # Orange on blue, and everything is switched off again.
    assert "\x1b[38;5;214;48;5;24m" in text
    assert all(
        line.endswith("\x1b[0m") or "\x1b" not in line[line.rfind("\x1b[0m") + 4 :] for line in text.splitlines()
    )


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def terminal(encoding: str = "utf-8") -> Terminal:
    return Terminal(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize(
    ("environ", "color", "ascii_only", "colored"),
    (
        ({"TERM": "xterm-256color"}, "auto", False, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "auto", False, False),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, "auto", False, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "always", False, True),
        ({"TERM": "xterm-256color"}, "never", False, False),
        ({"TERM": "dumb"}, "auto", True, False),
    ),
)
def test_style_of_a_terminal(environ: dict[str, str], color: str, ascii_only: bool, colored: bool) -> None:
    assert style_for(terminal(), environ, color) == Style(80, ascii_only, colored)


def test_style_of_a_file_and_of_other_encodings() -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as file:
        assert style_for(file, {}) == Style(80, False, False)
    assert style_for(terminal("latin-1"), {}).ascii
    assert style_for(terminal(), {}, ascii_only=True).ascii


def test_text_out_of_the_target_cannot_command_the_terminal() -> None:
    text = "\n".join(drawn(guests.hostile(), 132))
    assert "\x1b" not in text
    assert "script" in text
