# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a sampler reads once and what it reads each time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import drgn
import pytest

from drgn_unaccepted.errors import TargetError
from drgn_unaccepted.kernel import capture
from drgn_unaccepted.kernel.target import Opened, open_vmcore
from drgn_unaccepted.snapshot import ALL_PARTS, Counters, Snapshot, Wanted
from tests.checks.build import clean, live
from tests.kernel.elf_dump import SAMPLES


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
    assert [set(parts) for parts in asked] == [
        {"efi_map", "e820", "platform", "kernel_memory", "kexec_segments", "image"},
        {"kernel", "zones", "counters", "accepting"},
        {"kernel", "zones", "counters", "accepting"},
    ]
    assert first.torn == ("counters: 2",) and second.torn == ("counters: 3",)
    for snapshot in (first, second):
        for part in ("efi_map", "e820", "platform", "kernel_memory", "kexec_segments", "kernel", "zones", "accepting"):
            assert getattr(snapshot, part) == getattr(clean(), part), part
        assert snapshot.counters == Counters(0x40000 + 9216 + 2048, 9216, 0)
        assert snapshot.missing == {
            "pages": "not asked for",
            "panic": "not asked for",
            "reclaiming": "not asked for",
            "e820.kexec": "gone",
            "counters": "unreadable",
        }


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
