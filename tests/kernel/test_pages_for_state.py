# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which questions read ``struct page``: 64 GiB in a guest of 4 TiB, and beside an exact bitmap no state needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.kernel import capture as reader
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Wanted
from drgn_unaccepted.snapshot_file import write
from tests.asking import SAMPLES, Capsys, ask
from tests.test_samples import WITH_TABLE, WITHOUT_TABLE

TABLE, NO_TABLE = (SAMPLES / names[0] / "vmcore" for names in (WITH_TABLE, WITHOUT_TABLE))
QUESTIONS = [["ranges"], ["resolve", "0", "0x100000000", "0xfee00000", "1G-6G"], ["map"]]


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
    status, document, _ = ask(capsys, *argv)
    assert status == 0
    del document["target"]
    return document


@pytest.mark.parametrize("name", WITH_TABLE[::2])
def test_beside_an_exact_bitmap_none_is_read_and_the_answer_is_the_same(
    name: str, reads: list[Any], capsys: Capsys, tmp_path: Path
) -> None:
    path = SAMPLES / name / "vmcore"
    short = [answer(capsys, "-c", path, *question) for question in QUESTIONS]
    assert reads == []
    write(capture(open_vmcore(str(path)), Wanted(ALL_PARTS, ALL_MEMORY)), str(tmp_path / "whole"))
    assert len(reads) == 1
    assert short == [answer(capsys, "--snapshot", tmp_path / "whole", *question) for question in QUESTIONS]


@pytest.mark.parametrize(
    ("options", "source"),
    [(["-c", NO_TABLE], "reconstructed"), (["-c", TABLE, "--source", "page-lists"], "page-lists")],
)
def test_all_but_the_bitmap_needs_them(options: list[Any], source: str, reads: list[Any], capsys: Capsys) -> None:
    for number, question in enumerate(QUESTIONS, 1):
        assert answer(capsys, *options, *question)["source"] == source
        assert len(reads) == number


def test_a_page_outside_all_zones_is_read_where_it_was_asked_for(reads: list[Any], capsys: Capsys) -> None:
    """Page 0 is in no zone, and its structure shows that it is in use."""
    (entry,) = answer(capsys, "-c", NO_TABLE, "resolve", "0")["addresses"]
    assert (entry["state"], len(reads)) == ("accepted", 1)


def test_check_looks_at_them_in_any_case(reads: list[Any], capsys: Capsys) -> None:
    report = ask(capsys, "-c", TABLE, "check")[1]
    assert len(reads) >= 1
    (rule,) = (finding for finding in report["findings"] if finding["rule"] == "allocated-pages-accepted")
    assert rule["status"] == "pass"
