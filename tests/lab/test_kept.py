# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the flight recorder kept of a guest, on the kdump of the same guest's crash a little later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.record.keep import keep
from drgn_unaccepted.snapshot import ALL_PARTS, Wanted
from tests.lab.captures import CHUNK, UNIT, Capture, captures, find, listed_chunks, read_bitmap

pytestmark = pytest.mark.lab

if not captures():
    pytest.skip("no captures of the guest lab: make them with scripts/lab all", allow_module_level=True)

BOOT = "0f0e0d0c-0b0a-4908-8706-050403020100"

WITH_KDUMP = [found for found in find("fresh", "fill", "edges", "numa") if (found.path / "kdump.elf").exists()]


def ranges(capsys: pytest.CaptureFixture[str], *argv: object) -> Any:
    status = main([*map(str, argv), "ranges", "--format", "json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def units(answer: Any, state: str) -> set[int]:
    return {
        number
        for entry in answer["ranges"]
        if entry["state"] == state
        for number in range(entry["start"] // UNIT, entry["end"] // UNIT)
    }


@pytest.mark.parametrize("found", WITH_KDUMP, ids=lambda found: found.name)
@pytest.mark.parametrize("raw", [False, True], ids=["snapshot", "raw table"])
def test_a_kept_table_and_the_lists_of_a_kdump_call_nothing_unaccepted_accepted(
    found: Capture, raw: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # QEMU's dump stands for the running guest: it was stopped for it, then went on and crashed.
    kept = keep(capture(open_vmcore(str(found.dump)), Wanted(ALL_PARTS - {"pages"})), BOOT, str(tmp_path))
    address = found.table_address()
    assert kept.table is not None and kept.option is not None
    option = f"{kept.table}@{address:#x}" if raw else kept.option
    kdump = found.path / "kdump.elf"
    answer = ranges(capsys, "-c", kdump, "--table", option)
    assert answer["source"] == "bitmap" and answer["table"]["read_through"] == "file" and answer["exact"] is False

    base, unit, bitmap = read_bitmap(found.dump, address)
    assert unit == UNIT
    covered = {base // UNIT + bit for bit in range(8 * len(bitmap))}
    kept_set = {base // UNIT + bit for bit in range(8 * len(bitmap)) if bitmap[bit >> 3] >> (bit & 7) & 1}
    listed = listed_chunks(kdump, found.vmlinux)
    in_lists = {number for number in covered if number * UNIT // CHUNK * CHUNK in listed}
    # What is listed still was not accepted, but for what was then. No kdump of the lab knows its boot, so that a 0 of
    # then proves nothing alone; pages in use do.
    assert units(answer, "unaccepted") == kept_set & in_lists
    assert units(answer, "accepted") & covered <= covered - kept_set
    assert len(units(answer, "accepted") & covered) > len(covered - kept_set) // 2
    assert not units(answer, "accepted") & in_lists
    assert len(units(answer, "unaccepted")) > 0

    # Without it the same kdump knows the chunks only, guards among them.
    bare = ranges(capsys, "-c", kdump)
    assert bare["source"] == "page-lists"
    assert units(bare, "unaccepted") & covered == in_lists
