# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which questions read ``struct page``: 64 GiB in a guest of 4 TiB, and beside an exact bitmap no state needs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.kernel import capture as reader
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Wanted
from drgn_unaccepted.snapshot_file import write

SAMPLES = sorted((Path(__file__).parents[2] / "vmcore-samples").glob("*/vmcore"))
WITH_TABLE = [path for path in SAMPLES if json.loads((path.parent / "truth.json").read_text())["has_table"]]
WITHOUT_TABLE = [path for path in SAMPLES if path not in WITH_TABLE]
QUESTIONS = [["ranges"], ["resolve", "0", "0x100000000", "0xfee00000", "1G-6G"], ["map"]]

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The ranges whose pages were read."""
    found: list[Any] = []
    read_pages = reader.read_pages

    def noted(prog: Any, ranges: Any, *rest: Any) -> Any:
        found.append(ranges)
        return read_pages(prog, ranges, *rest)

    monkeypatch.setattr(reader, "read_pages", noted)
    return found


def answer(capsys: Capsys, *argv: object) -> Any:
    assert main([*map(str, argv), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    del document["target"]
    return document


@pytest.mark.parametrize("path", WITH_TABLE[::2], ids=lambda path: path.parent.name)
def test_beside_an_exact_bitmap_none_is_read_and_the_answer_is_the_same(
    path: Path, reads: list[Any], capsys: Capsys, tmp_path: Path
) -> None:
    short = [answer(capsys, "-c", path, *question) for question in QUESTIONS]
    assert reads == []
    write(capture(open_vmcore(str(path)), Wanted(ALL_PARTS, ALL_MEMORY)), str(tmp_path / "whole"))
    assert len(reads) == 1
    assert short == [answer(capsys, "--snapshot", tmp_path / "whole", *question) for question in QUESTIONS]


@pytest.mark.parametrize(
    ("options", "source"),
    [(["-c", WITHOUT_TABLE[0]], "reconstructed"), (["-c", WITH_TABLE[0], "--source", "page-lists"], "page-lists")],
)
def test_all_but_the_bitmap_needs_them(options: list[Any], source: str, reads: list[Any], capsys: Capsys) -> None:
    for number, question in enumerate(QUESTIONS, 1):
        assert answer(capsys, *options, *question)["source"] == source
        assert len(reads) == number


def test_a_page_outside_all_zones_is_read_where_it_was_asked_for(reads: list[Any], capsys: Capsys) -> None:
    """Page 0 is in no zone, and its structure shows that it is in use."""
    (entry,) = answer(capsys, "-c", WITHOUT_TABLE[0], "resolve", "0")["addresses"]
    assert (entry["state"], len(reads)) == ("accepted", 1)


def test_check_looks_at_them_in_any_case(reads: list[Any], capsys: Capsys) -> None:
    main(["-c", str(WITH_TABLE[0]), "check", "--format", "json"])
    report = json.loads(capsys.readouterr().out)
    assert len(reads) >= 1
    (rule,) = (finding for finding in report["findings"] if finding["rule"] == "allocated-pages-accepted")
    assert rule["status"] == "pass"
