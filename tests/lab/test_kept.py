# SPDX-License-Identifier: LGPL-2.1-or-later
"""A table that the flight recorder kept, with the kdump of the same guest's crash a little later."""

from __future__ import annotations

from pathlib import Path

import pytest

from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.record.keep import keep
from drgn_unaccepted.snapshot import ALL_PARTS, Wanted
from tests.lab.asking import NEEDS_CAPTURES, ask, ids
from tests.lab.captures import CHUNK, UNIT, Capture, find, listed_chunks, read_bitmap, set_units, units

pytestmark = NEEDS_CAPTURES

BOOT = "0f0e0d0c-0b0a-4908-8706-050403020100"

WITH_KDUMP = [found for found in find("fresh", "fill", "edges", "numa") if (found.path / "kdump.elf").exists()]


@pytest.mark.parametrize("found", WITH_KDUMP, ids=ids)
@pytest.mark.parametrize("raw", [False, True], ids=["snapshot", "raw table"])
def test_a_kept_table_and_the_lists_of_a_kdump_call_nothing_unaccepted_accepted(
    found: Capture, raw: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # QEMU's dump is the running guest: it was stopped for the dump, went on, and crashed.
    kept = keep(capture(open_vmcore(str(found.dump)), Wanted(ALL_PARTS - {"pages"})), BOOT, str(tmp_path))
    address = found.table_address()
    option = f"{kept.table}@{address:#x}" if raw else kept.option
    kdump = found.path / "kdump.elf"
    _, answer, _ = ask(capsys, "-c", kdump, "--table", option, "ranges")
    assert (answer["source"], answer["table"]["read_through"], answer["exact"]) == ("reconstructed", "file", True)

    base, unit, bitmap = read_bitmap(found.dump, address)
    assert unit == UNIT
    covered = set_units(base, b"\xff" * len(bitmap))
    kept_set = set_units(base, bitmap)
    listed = listed_chunks(kdump, found.vmlinux)
    in_lists = {number for number in covered if number * UNIT // CHUNK * CHUNK in listed}
    # Units that are still listed were not accepted since. No kdump of the lab has a boot ID: its EFI map decides.
    assert units(answer, "unaccepted") == kept_set & in_lists != set()
    # The lists alone have the chunks, with their guards.
    _, bare, _ = ask(capsys, "-c", kdump, "--source", "page-lists", "ranges")
    assert units(bare, "unaccepted") & covered == in_lists
