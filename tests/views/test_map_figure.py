# SPDX-License-Identifier: LGPL-2.1-or-later
"""The map as a figure, and the commands ``map`` and ``report`` from the command line on a real sample."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from drgn_unaccepted.answer.judgement import judge
from drgn_unaccepted.answer.map import map_document
from drgn_unaccepted.cli import main
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.views import figure
from drgn_unaccepted.words import share, size
from tests.views import guests
from tests.views.guests import MIB, TIB, UNIT

SAMPLE = Path(__file__).parent.parent.parent / "vmcore-samples" / "6.12-fill" / "vmcore"

Capsys = pytest.CaptureFixture[str]

SVG = "{http://www.w3.org/2000/svg}"


def image(snapshot: Snapshot, format_: str) -> bytes:
    answer = map_document(snapshot, judge(snapshot), columns=figure.COLUMNS, finest=1)
    return figure.image(figure.draw, answer, format_)


def drawn(snapshot: Snapshot) -> tuple[list[str], list[str]]:
    """The words and the colours of the figure."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra pictures)")
    root = ElementTree.fromstring(image(snapshot, "svg"))
    words = ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]
    return words, re.findall(r"fill: (#[0-9a-f]{6})", ElementTree.tostring(root, "unicode"))


def test_svg_says_what_it_shows() -> None:
    said, fills = drawn(guests.small())
    assert "456 MiB unaccepted of 2031.6 MiB RAM; source: bitmap, exact" in said
    gap = "3 GiB without RAM, 256 MiB reserved"
    assert {"0x0", "0x100000000", "0x140000000", "45%", gap, "node 1 Normal"} <= set(said)
    assert any("Linux 6.12.0-test; a row is 1 GiB; a unit is 2 MiB" in text for text in said)
    # Seven runs of set bits in the stairs and the long one, each a bar, and the legend's patch.
    assert fills.count("#e69f00") >= 9


# In the first row 2 GiB of 254 GiB are outside the bitmap too.
@pytest.mark.parametrize(
    ("value", "share_of_row", "rows"),
    ((b"\0", "<1%", 1), pytest.param(b"\xff", ">99%", 2, marks=pytest.mark.long)),
)
def test_one_unit_of_ten_tib_is_visible(value: bytes, share_of_row: str, rows: int) -> None:
    said, fills = drawn(guests.one_unlike_all_others(value))
    assert "0x60000000000" in said and "EFI" not in said, "so many rows have no lanes"
    assert said.count(share_of_row) == rows
    # Colours between blue and orange: none is nearer to an end of the scale than a third of it.
    blue, orange = (0xA8, 0xCF, 0xE8), (0xE6, 0x9F, 0x00)
    colors = [bytes.fromhex(color[1:]) for color in fills]
    between = [one for one in colors if all(min(a, b) < c < max(a, b) for a, b, c in zip(blue, orange, one))]
    assert between and all(0xA8 + 20 <= red <= 0xE6 - 20 for red, _, _ in between)
    # A unit alone is pointed at as well: nothing else is orange but the legend's patch.
    assert value == b"\xff" or fills.count("#e69f00") == 2


PARTS = ((0, TIB, "0%"), (UNIT, TIB, "<1%"), (TIB // 100 + 1, TIB, "1%"), (TIB - UNIT, TIB, ">99%"), (TIB, TIB, "100%"))


@pytest.mark.parametrize(("part", "whole", "said"), (*PARTS, (0, 0, ""), (UNIT, 0, "!")))
def test_a_share_is_nothing_or_all_only_if_it_is(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


SIZES = ((None, "unknown"), (0, "0"), (1023, "1023 bytes"), (10240, "10 KiB"), (2142 * MIB, "2142 MiB"))
SCALED = ((2057728 << 10, "2009.5 MiB"), (1 << 40, "1 TiB"), (-50 * MIB - 1, "-50.0 MiB"), (0.4, "0"))


@pytest.mark.parametrize(("nbytes", "said"), (*SIZES, *SCALED))
def test_sizes_are_exact_where_four_digits_do(nbytes: float, said: str) -> None:
    assert size(nbytes) == said


@pytest.mark.long
def test_the_same_map_makes_the_same_file() -> None:
    pytest.importorskip("matplotlib")
    for format_, magic in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        first = image(guests.lists(), format_)
        assert first.startswith(magic) and image(guests.lists(), format_) == first


def test_names_are_neither_markup_nor_mathematics() -> None:
    said = " ".join(drawn(guests.hostile())[0])
    assert "</script><script>window.pwned = 1</script>" in said and "$x^{2}$" in said


@pytest.mark.parametrize("broken", (False, True))
def test_without_matplotlib_one_line_says_why(broken: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One whose own import fails is not called missing: to install it again would not help."""
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    why = r"pip install 'drgn-unaccepted\[pictures\]'"
    if broken:
        (tmp_path / "matplotlib").mkdir()
        (tmp_path / "matplotlib" / "__init__.py").write_text("import nowhere_to_be_found\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        why = r"cannot be imported: No module named 'nowhere_to_be_found'$"
    else:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CommandError, match=why):
        image(guests.small(), "svg")


def test_map_as_json_does_not_depend_on_the_terminal(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["-c", str(SAMPLE), "map", "--format", "json"]) == 0
        answers.append({**json.loads(capsys.readouterr().out), "target": None})
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


@pytest.mark.long
def test_a_figure_is_known_by_its_name(capsys: Capsys, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "MAP.PNG"
    assert main(["-c", str(SAMPLE), "map", "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: written\n" and path.read_bytes().startswith(b"\x89PNG")


def test_report_is_written_whole_or_not_at_all(capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert main(["-c", str(SAMPLE), "report", "-o", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: {path.stat().st_size} bytes; checks: ")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main(["-c", str(SAMPLE), "report", "-o", str(tmp_path / "none" / "report.html")]) == 3
    assert "No such file or directory" in capsys.readouterr().err and list(tmp_path.iterdir()) == [path]
