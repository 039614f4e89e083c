# SPDX-License-Identifier: LGPL-2.1-or-later
"""The map as a figure, and the commands ``map`` and ``report`` from the command line on a real sample."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from drgn_unaccepted.answer.judgement import judge
from drgn_unaccepted.answer.map import map_document
from drgn_unaccepted.cli import main
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.views import figure
from drgn_unaccepted.words import share
from tests.views import guests
from tests.views.guests import TIB, UNIT

SAMPLE = Path(__file__).parent.parent.parent / "vmcore-samples" / "6.12-fill" / "vmcore"
KDUMP = SAMPLE.parent.parent / "6.12-fill-kdump" / "vmcore"

Capsys = pytest.CaptureFixture[str]

SVG = "{http://www.w3.org/2000/svg}"


def needs_matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra pictures)")


def image(snapshot: Snapshot, format_: str) -> bytes:
    answer = map_document(snapshot, judge(snapshot), columns=figure.COLUMNS, finest=1)
    return figure.image(figure.draw, answer, format_)


def svg(snapshot: Snapshot) -> ElementTree.Element:
    return ElementTree.fromstring(image(snapshot, "svg"))


def words(root: ElementTree.Element) -> list[str]:
    return ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]


def fills(root: ElementTree.Element) -> list[str]:
    return re.findall(r"fill: (#[0-9a-f]{6})", ElementTree.tostring(root, "unicode"))


def test_svg_says_what_it_shows() -> None:
    needs_matplotlib()
    root = svg(guests.small())
    said = words(root)
    assert "456 MiB unaccepted of 1.98 GiB RAM; source: bitmap, exact" in said
    assert {"0x0", "0x100000000", "0x140000000", "45%", "3 GiB without RAM", "node 1 Normal"} <= set(said)
    assert any("Linux 6.12.0-test; a row is 1 GiB; a unit is 2 MiB" in text for text in said)
    # Eight runs of set bits in the stairs and the long one, each a bar, and the legend's patch.
    assert fills(root).count("#e69f00") >= 10


def one_unit_unlike_all_others(value: bytes) -> Snapshot:
    """10 TiB: one unit unaccepted amid zeros, or one accepted amid ones."""
    snapshot = guests.huge()
    assert snapshot.table.bitmap_bytes is not None
    bitmap = bytearray(value * snapshot.table.bitmap_bytes)
    bitmap[len(bitmap) // 3] ^= 1
    return replace(snapshot, table=guests.table(bytes(bitmap)))


def bars(root: ElementTree.Element) -> list[tuple[int, int, int]]:
    """Colours between blue (accepted) and orange (unaccepted)."""
    found = [tuple(bytes.fromhex(color[1:])) for color in fills(root)]
    blue, orange = (0xA8, 0xCF, 0xE8), (0xE6, 0x9F, 0x00)
    between = [all(min(a, b) < c < max(a, b) for a, b, c in zip(blue, orange, color)) for color in found]
    return [(r, g, b) for (r, g, b), is_between in zip(found, between) if is_between]


# In the first row 2 GiB of 254 GiB are outside the bitmap too.
@pytest.mark.parametrize(("value", "said", "rows"), ((b"\0", "<1%", 1), (b"\xff", ">99%", 2)))
def test_one_unit_of_ten_tib_is_visible(value: bytes, said: str, rows: int) -> None:
    needs_matplotlib()
    root = svg(one_unit_unlike_all_others(value))
    assert "0x60000000000" in words(root) and "EFI" not in words(root), "so many rows have no lanes"
    assert words(root).count(said) == rows
    # Neither end of the scale is nearer than a third of it: red goes from 0xa8 to 0xe6.
    found = bars(root)
    assert found and all(0xA8 + 20 <= red <= 0xE6 - 20 for red, _, _ in found)
    # A unit alone is pointed at as well: nothing else is orange but the legend's patch.
    if value == b"\0":
        assert fills(root).count("#e69f00") == 2


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    (
        (0, TIB, "0%"),
        (UNIT, TIB, "<1%"),
        (TIB // 100, TIB, "<1%"),
        (TIB // 100 + 1, TIB, "1%"),
        (TIB // 2, TIB, "50%"),
        (TIB - UNIT, TIB, ">99%"),
        (TIB, TIB, "100%"),
        (0, 0, ""),
        (UNIT, 0, "!"),
    ),
)
def test_a_share_is_nothing_or_all_only_if_it_is(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


@pytest.mark.long
def test_the_same_map_makes_the_same_file() -> None:
    needs_matplotlib()
    for format_, magic in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        first = image(guests.lists(), format_)
        assert first.startswith(magic) and image(guests.lists(), format_) == first


def test_names_are_neither_markup_nor_mathematics() -> None:
    needs_matplotlib()
    said = " ".join(words(svg(guests.hostile())))
    assert "</script><script>window.pwned = 1</script>" in said
    assert "$x^{2}$" in said


def test_without_matplotlib_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CommandError, match=r"pip install 'drgn-unaccepted\[pictures\]'"):
        image(guests.small(), "svg")


def test_a_matplotlib_that_cannot_be_imported_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its own import fails, so that to install it again would not help."""
    broken = tmp_path / "matplotlib"
    broken.mkdir()
    (broken / "__init__.py").write_text("import nowhere_to_be_found\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(CommandError, match=r"cannot be imported: No module named 'nowhere_to_be_found'$"):
        image(guests.small(), "svg")


def test_map_of_a_sample(capsys: Capsys) -> None:
    assert main(["-c", str(SAMPLE), "map", "--width", "80"]) == 0
    out = capsys.readouterr().out
    assert "source  bitmap, exact" in out and "\x1b" not in out
    assert main(["-c", str(SAMPLE), "map", "--width", "80", "--ascii", "--color", "always"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[38;5;214;48;5;24m" in out and out.replace("\x1b", "").isascii()


def test_map_of_a_kdump_says_its_source(capsys: Capsys) -> None:
    assert main(["-c", str(KDUMP), "map", "--width", "80"]) == 0
    assert capsys.readouterr().out.startswith("source  page-lists, not exact (bitmap: table not-captured: ")


def test_map_as_json_does_not_depend_on_the_terminal(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["-c", str(SAMPLE), "map", "--format", "json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        answer["target"]["taken_at"] = None
        answers.append(answer)
    assert answers[0] == answers[1]
    assert answers[0]["bins_per_row"] == 64 and answers[0]["bytes_per_bin"] == 16 << 20


@pytest.mark.parametrize(
    ("options", "why"),
    (
        (["--range", "5G"], "5G: no range"),
        (["--range", "5G-4G"], "the range is empty"),
        (["--width", "10"], "10: not a width from 40 to 1000"),
        (["--format", "svg"], "--format svg needs -o FILE"),
        (["-o", "map.txt"], "-o map.txt: for figures alone, --format svg or png; text goes to stdout"),
        (["-o", "map.svg", "--format", "json"], "-o map.svg: for figures alone, --format svg or png; json goes to"),
        (["--format", "gif"], "--format gif: map has text, json, svg, png"),
        (["--source", "counters"], "source counters knows no addresses"),
    ),
)
def test_what_map_refuses(
    options: list[str], why: str, capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["-c", str(SAMPLE), "map", *options])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    assert status == 3
    captured = capsys.readouterr()
    assert why in captured.err and len(captured.err.splitlines()) == 1 and captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_figure_is_known_by_its_name(capsys: Capsys, tmp_path: Path) -> None:
    needs_matplotlib()
    path = tmp_path / "MAP.PNG"
    assert main(["-c", str(SAMPLE), "map", "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: written\n"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_report_is_written_whole_or_not_at_all(capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert main(["-c", str(SAMPLE), "report", "-o", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: {path.stat().st_size} bytes; checks: ")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    assert main(["-c", str(SAMPLE), "report", "-o", str(tmp_path / "none" / "report.html")]) == 3
    assert "No such file or directory" in capsys.readouterr().err
