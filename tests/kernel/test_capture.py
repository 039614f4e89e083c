# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a sampler reads once, and which questions read ``struct page``, of which a guest of 4 TiB has 64 GiB."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import drgn
import pytest

from drgn_unaccepted.errors import TargetError
from drgn_unaccepted.kernel import capture
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.run import look
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Counters, Snapshot, Wanted
from drgn_unaccepted.snapshot_file import write
from drgn_unaccepted.targets.opened import Opened
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.asking import SAMPLES, Capsys, ask
from tests.checks.build import LISTED, clean, live
from tests.checks.changes import listing, without
from tests.test_samples import WITH_TABLE, WITHOUT_TABLE

TABLE, NO_TABLE = (SAMPLES / names[0] / "vmcore" for names in (WITH_TABLE, WITHOUT_TABLE))
QUESTIONS = [["ranges"], ["resolve", "0", "0x100000000", "0xfee00000", "1G-6G"], ["map"]]


def opened(kind: str) -> Opened:
    return Opened(drgn.Program(drgn.Platform(drgn.Architecture.X86_64)), kind, None, "btf", None, None)


def test_what_stays_as_it_was_at_boot_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[frozenset[str]] = []

    def captured(_: Opened, wanted: Wanted) -> Snapshot:
        asked.append(wanted.parts)
        whole = live(clean(), (f"counters: {len(asked)}",))
        missing = dict.fromkeys(ALL_PARTS - wanted.parts, "not asked for")
        if "efi_map" in wanted.parts:
            missing["e820.kexec"] = "gone"
        if "zones" in wanted.parts:
            missing["counters"] = "unreadable"
        none: dict[str, Any] = dict.fromkeys(ALL_PARTS - wanted.parts)
        return replace(whole, **none, missing=missing)

    monkeypatch.setattr(capture, "capture", captured)
    take = capture.sampler(opened("live"))
    first, second = take(), take()
    once = {"efi_map", "e820", "platform", "kernel_memory", "kexec_segments", "image"}
    each = {"kernel", "zones", "counters", "accepting"}
    assert asked == [once, each, each]
    assert first.torn == ("counters: 2",) and second.torn == ("counters: 3",)
    for snapshot in (first, second):
        for part in ("efi_map", "e820", "platform", "kernel_memory", "kexec_segments", "kernel", "zones", "accepting"):
            assert getattr(snapshot, part) == getattr(clean(), part), part
        assert snapshot.counters == Counters(0x40000 + 9216 + 2048, 9216, 0)
        absent = dict.fromkeys(("pages", "panic", "reclaiming"), "not asked for")
        assert snapshot.missing == {**absent, "e820.kexec": "gone", "counters": "unreadable"}


def test_a_dump_has_no_samples_over_time() -> None:
    with pytest.raises(TargetError, match="watch and record need a running kernel"):
        capture.sampler(opened("vmcore"))


def test_a_sample_is_of_the_moment_when_its_reading_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its ``elapsed`` is: both intervals between samples agree, however long the first one takes."""
    began: list[datetime] = []
    read_table = capture.table_reader.read_table

    def look(*args: Any) -> Any:
        began.append(datetime.now(timezone.utc))
        return read_table(*args)

    monkeypatch.setattr(capture.table_reader, "read_table", look)
    sample = open_vmcore(str(SAMPLES / "6.12-fill" / "vmcore"))
    taken = datetime.fromisoformat(capture.capture(sample, Wanted(frozenset())).target.taken_at)
    assert taken <= began[0]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The ranges whose pages were read."""
    found: list[Any] = []
    read_pages = capture.read_pages

    def noted(prog: Any, ranges: Any, *rest: Any) -> Any:
        found.append(ranges)
        return read_pages(prog, ranges, *rest)

    monkeypatch.setattr(capture, "read_pages", noted)
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
    write(capture.capture(open_vmcore(str(path)), Wanted(ALL_PARTS, ALL_MEMORY)), str(tmp_path / "whole"))
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


def test_those_with_bits_that_no_list_has_are_read_in_doubt() -> None:
    asked: list[Wanted] = []
    taken = iter([clean(listing(*LISTED[3:]), without("pages"))] * 2)
    look(lambda wanted: asked.append(wanted) or taken, Wanted(ALL_PARTS, (Range(0, 4096),)))
    assert [wanted.where[1:] for wanted in asked] == [(), (Range(0x101A00000, 0x102400000),)]
