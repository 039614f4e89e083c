# SPDX-License-Identifier: LGPL-2.1-or-later
"""The map as SVG, and the command ``map`` on a real sample."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.map import map_document
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.snapshot_file import write
from drgn_unaccepted.views.svg import COLUMNS, LEFT, PLOT, map_svg
from drgn_unaccepted.words import share
from tests.asking import Capsys, Patch, answered, ask, refused
from tests.views import guests
from tests.views.guests import BASE, GIB, MIB, TIB, UNIT

SAMPLE = Path(__file__).parent.parent.parent / "vmcore-samples" / "6.12-fill" / "vmcore"

SVG = "{http://www.w3.org/2000/svg}"

#: Left, top and right of bars, by class.
Bars = dict[str, list[tuple[float, float, float]]]


def figure(snapshot: Snapshot, faults: Sequence[list[int]] = (), finest: int = 1) -> str:
    return map_svg(map_document(snapshot, judge(snapshot), columns=COLUMNS, finest=finest), faults)


def drawn(snapshot: Snapshot, faults: Sequence[list[int]] = ()) -> tuple[list[str], Bars]:
    """The words and the bars."""
    root = ElementTree.fromstring(figure(snapshot, faults))
    bars: Bars = {}
    for path in root.iter(f"{SVG}path"):
        class_ = path.get("class") or ""
        for x, y, width in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)", path.get("d") or ""):
            bars.setdefault(class_, []).append((float(x), float(y), float(x) + float(width)))
    return ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")], bars


def x_of(address: int, row: int = BASE, row_bytes: int = GIB) -> float:
    return LEFT + (address - row) / row_bytes * PLOT


def test_what_is_written() -> None:
    said, _ = drawn(guests.small())
    assert "456 MiB unaccepted of 2031.6 MiB RAM; source: bitmap, exact" in said
    gap = "3 GiB without RAM, 256 MiB reserved"
    assert {"0x0", "0x100000000", "0x140000000", "45%", gap, "node 1 Normal"} <= set(said)
    assert any("Linux 6.12.0-test; a row is 1 GiB; a unit is 2 MiB" in text for text in said)


def test_each_unit_is_where_it_belongs() -> None:
    _, bars = drawn(guests.small(), [[BASE + GIB // 4, BASE + GIB // 4 + 4096]])
    # The long run, and units 1 to 3 of byte 3, which is 0b1110.
    unaccepted = {(left, right) for left, _, right in bars["unaccepted"]}
    assert {(x_of(0x120000000), x_of(0x138000000)), (x_of(BASE + 25 * UNIT), x_of(BASE + 28 * UNIT))} <= unaccepted
    reserved = (x_of(496 * MIB, 0), x_of(512 * MIB, 0))
    assert reserved in {(left, right) for left, _, right in bars["reserved"]}
    accepting, (finding, *_) = bars["accepting"][0], bars["finding"]
    assert accepting[0] <= x_of(BASE + 4 * UNIT) and x_of(BASE + 6 * UNIT) <= accepting[2]
    assert finding[0] < x_of(BASE + GIB // 4) < finding[2] and finding[2] - finding[0] >= 6


@pytest.mark.parametrize("finest", (1, 4096))
def test_guards_and_undecided_units_are_marked_at_every_scale(finest: int) -> None:
    """Also where they share a bin of 8 GiB with unaccepted memory, which the bin shows."""
    root = ElementTree.fromstring(figure(guests.lists(), finest=finest))
    for name in ("guard", "unknown"):
        bars = [one.get("d") or "" for one in root.iter(f"{SVG}path") if one.get("class") == name]
        # The swatch of the legend has a height of 12.
        assert any("v12" not in bar for bar in bars), name


@pytest.mark.parametrize("value", (b"\0", pytest.param(b"\xff", marks=pytest.mark.long)))
def test_one_unit_of_ten_tib_is_visible(value: bytes) -> None:
    text = figure(guests.one_unlike_all_others(value))
    assert "0x60000000000" in text and ">EFI<" not in text, "so many rows have no lanes"
    assert text.count({b"\0": ">&lt;1%<", b"\xff": ">&gt;99%<"}[value]) == {b"\0": 1, b"\xff": 2}[value]
    # Between the colours, no nearer to an end of the scale than a third of it.
    shades = [float(one) for one in re.findall(r'fill-opacity="([\d.]+)"', text)]
    assert shades and all(0.33 <= one <= 0.67 for one in shades)
    # A unit alone is pointed at as well, by a mark that is wider than it.
    _, bars = drawn(guests.one_unlike_all_others(b"\0"))
    assert any(right - left >= 6 for left, _, right in bars["unaccepted"])


def test_nothing_is_drawn_finer_than_columns() -> None:
    """A hostile e820 table of thousands of entries makes no large drawing."""
    entries = tuple((n * 8192, n * 8192 + 4096) for n in range(4_000))
    assert len(figure(replace(guests.only_bitmap(guests.small()), e820=guests.e820(*entries)))) < 300_000


PARTS = ((0, TIB, "0%"), (UNIT, TIB, "<1%"), (TIB // 100 + 1, TIB, "1%"), (TIB - UNIT, TIB, ">99%"), (TIB, TIB, "100%"))


@pytest.mark.parametrize(("part", "whole", "said"), (*PARTS, (0, 0, ""), (UNIT, 0, "!")))
def test_a_share_is_nothing_or_all_only_if_it_is(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


def test_map_as_json_does_not_depend_on_the_terminal(capsys: Capsys, monkeypatch: Patch) -> None:
    answers = []
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        _, answer, _ = ask(capsys, "-c", SAMPLE, "map")
        answers.append({**answer, "target": None})
    assert answers[0] == answers[1]
    assert answers[0]["bins_per_row"] == 64 and answers[0]["bytes_per_bin"] == 16 << 20


def test_the_drawing_on_stdout_and_in_files(capsys: Capsys, tmp_path: Path, monkeypatch: Patch) -> None:
    guest, drawing, path = tmp_path / "guest.json", tmp_path / "MAP.SVG", tmp_path / "map.PNG"
    write(guests.small(), str(guest))
    assert answered(capsys, "--snapshot", guest, "map", "-o", drawing) == f"{drawing}: written\n"
    assert answered(capsys, "--snapshot", guest, "map", "--format", "svg") == drawing.read_text(encoding="utf-8")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "cairosvg", None)
        assert "PNG needs cairosvg" in refused(capsys, "--snapshot", guest, "map", "-o", path) and not path.exists()
    pytest.importorskip("cairosvg", reason="cairosvg is not installed (pip install cairosvg)")
    said = answered(capsys, "--snapshot", guest, "map", "-o", path, "--format", "png")
    assert said == f"{path}: written\n"
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    (top,) = {top for left, top, right in drawn(guests.small())[1]["unaccepted"] if left == x_of(0x120000000)}
    orange, blue = (0xE6, 0x9F, 0), (0xA8, 0xCF, 0xE8)
    for address, color in ((0x120200000, orange), (0x137F00000, orange), (0x138100000, blue)):
        assert picture.getpixel((round(2 * x_of(address)), round(2 * top) + 18)) == color, hex(address)
    answered(capsys, "replay", SAMPLE.parents[1] / "6.12-fill.rec", "-o", path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "why"),
    (
        (["--range", "5G"], "5G: no range"),
        (["--range", "5G-4G"], "the range ends before it starts"),
        (["--width", "10"], "10: not a width from 40 to 1000"),
        (["-o", "map.gif"], "-o map.gif: give a name that ends in .svg or .png"),
        (["-o", "map.svg", "--format", "png"], "-o map.svg: give a name that ends in .png"),
        (["-o", "map.svg", "--format", "json"], "-o map.svg: for figures alone; json goes to stdout"),
        (["--format", "png"], "--format png: a PNG is written to a file; add -o FILE.png"),
        (["--format", "gif"], "--format: gif: no such choice; there are text, json, svg, png"),
        (["--source", "counters"], "source counters knows no addresses"),
    ),
)
def test_what_map_refuses(options: list[str], why: str, capsys: Capsys, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    assert why in refused(capsys, "-c", SAMPLE, "map", *options)
    assert list(tmp_path.iterdir()) == []
