# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other ways to the same answers: DWARF and BTF, a kept table and a kdump, a console log."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from drgn_unaccepted.kernel.capture import capture as take
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.record.keep import keep
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Snapshot, Wanted
from tests.lab.asking import NEEDS_CAPTURES, ask, ids
from tests.lab.captures import CHUNK, UNIT, Capture, all_captures, find, listed_chunks, set_units, units

pytestmark = NEEDS_CAPTURES


# A table that the flight recorder kept, with the kdump of the same guest's crash a little later

WITH_KDUMP = [found for found in find("fresh", "fill", "edges", "numa") if (found.path / "kdump.elf").exists()]
BOOT = "0f0e0d0c-0b0a-4908-8706-050403020100"


@pytest.mark.parametrize("found", WITH_KDUMP, ids=ids)
@pytest.mark.parametrize("raw", [False, True], ids=["snapshot", "raw table"])
def test_a_kept_table_and_the_lists_of_a_kdump_call_nothing_unaccepted_accepted(
    found: Capture, raw: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # QEMU's dump is the running guest: it was stopped for the dump, went on, and crashed.
    kept = keep(take(open_vmcore(str(found.dump)), Wanted(ALL_PARTS - {"pages"})), BOOT, str(tmp_path))
    address, base, unit, bitmap = found.table()
    option = f"{kept.table}@{address:#x}" if raw else kept.option
    kdump = found.path / "kdump.elf"
    _, answer, _ = ask(capsys, "-c", kdump, "--table", option, "ranges")
    assert (answer["source"], answer["table"]["read_through"], answer["exact"]) == ("reconstructed", "file", True)

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


# Console logs, as targets of their own


@pytest.mark.parametrize("capture", [c for c in all_captures() if c.has_account], ids=ids)
@pytest.mark.parametrize("name", ["serial.log", "guest/dmesg"])
def test_a_log_knows_what_was_unaccepted_at_boot(
    capture: Capture, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer, _ = ask(capsys, "--log", capture.path / name, "ranges")
    initial = capture.initial_units()
    if not initial or answer["source"] == "none":
        pytest.skip(f"no EFI memory map in the log: {answer['source_reason']}")
    assert (status, answer["initially_unaccepted_bytes"]) == (0, len(initial) * UNIT)
    assert units(answer, "unknown") == initial
    assert not units(answer, "accepted") & initial and not units(answer, "unaccepted")


# DWARF and the target's own BTF

DUMPS = [
    pytest.param(capture, path.name, id=f"{capture.name}-{path.name}")
    for capture in all_captures()
    if capture.vmlinux
    for path in sorted(capture.path.glob("*dump.*"))
]


def read_all(capture_: Capture, name: str, debug_info: str) -> Snapshot:
    symbols = [capture_.vmlinux] if debug_info == "dwarf" else []
    opened = open_vmcore(str(capture_.path / name), symbols, debug_info)
    snapshot = take(opened, Wanted(ALL_PARTS, ALL_MEMORY))
    assert snapshot.target.debug_info == debug_info
    same = dataclasses.replace(snapshot.target, debug_info="either", debug_info_path=None, taken_at="")
    return dataclasses.replace(snapshot, target=same)


@pytest.mark.parametrize(("capture_", "name"), DUMPS)
def test_dwarf_and_btf_give_equal_snapshots(capture_: Capture, name: str) -> None:
    dwarf, btf = (read_all(capture_, name, kind) for kind in ("dwarf", "btf"))
    for field in dataclasses.fields(Snapshot):
        assert getattr(dwarf, field.name) == getattr(btf, field.name), field.name
    assert dwarf.zones and dwarf.kernel is not None, "and they are not equally empty"
