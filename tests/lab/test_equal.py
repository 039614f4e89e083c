# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other ways to the same answers: DWARF and BTF, a kept table and a kdump, a console log, an sos report."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from drgn_unaccepted.kernel.capture import capture as take
from drgn_unaccepted.record.keep import keep
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Snapshot, Wanted
from drgn_unaccepted.targets.symbol_files import read_symbol_file
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.asking import Capsys
from tests.lab.asking import NEEDS_CAPTURES, ask, ids
from tests.lab.captures import CHUNK, UNIT, Capture, all_captures, find, listed_chunks, set_units, units

pytestmark = NEEDS_CAPTURES


# A table that the flight recorder kept, with the kdump of the same guest's crash a little later

WITH_KDUMP = [found for found in find("fresh", "fill", "edges", "numa") if (found.path / "kdump.elf").exists()]
BOOT = "0f0e0d0c-0b0a-4908-8706-050403020100"


@pytest.mark.parametrize("found", WITH_KDUMP, ids=ids)
@pytest.mark.parametrize("raw", [False, True], ids=["snapshot", "raw table"])
def test_a_kept_table_and_the_lists_of_a_kdump_call_nothing_unaccepted_accepted(
    found: Capture, raw: bool, tmp_path: Path, capsys: Capsys
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
def test_a_log_knows_what_was_unaccepted_at_boot(capture: Capture, name: str, capsys: Capsys) -> None:
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
    symbols = [read_symbol_file(capture_.vmlinux, debug_info)] if debug_info == "dwarf" else []
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


# sos reports made of what guests of the lab said of themselves, compared with their own account and their dumps

#: Without a table there are no ranges; the log of a second kernel has no memory map.
REPORTED = [c for c in all_captures() if c.has_account and c.path.name not in ("none", "kexec")]


@pytest.mark.parametrize("capture", REPORTED, ids=ids)
def test_a_report_of_a_guest(capture: Capture, tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "sos_commands" / "kernel").mkdir(parents=True)
    for name in ("meminfo", "zoneinfo", "buddyinfo", "iomem", "cmdline"):
        (tmp_path / "proc" / name).write_text(capture.account(name))
    (tmp_path / "sos_commands" / "kernel" / "dmesg").write_text(capture.account("dmesg"))
    (tmp_path / "sos_commands" / "kernel" / "uname_-a").write_text(f"Linux lab {capture.account('uname')}")
    _, answer, _ = ask(capsys, "--sos", tmp_path)
    assert answer["nr_unaccepted_bytes"] == capture.nr_unaccepted()
    assert answer["table"]["address"] == capture.table_address()
    has_map = "efi: mem" in capture.account("dmesg")
    assert answer["missing"].keys() & {"counters", "zones", "e820.current", "panic", "efi_map"} == (
        set() if has_map else {"efi_map"}
    )
    zones = ask(capsys, "--sos", tmp_path, "zones")[1]["zones"]
    counted = map(int, re.findall(r"^ +nr_unaccepted (\d+)$", capture.account("zoneinfo"), re.M))
    assert [zone["unaccepted_bytes"] for zone in zones] == [pages << 12 for pages in counted]
    if has_map and (capture.path / "guest" / "lab_accepted").exists():
        answer, waiting = ask(capsys, "--sos", tmp_path, "ranges")[1], capture.unaccepted_units()
        assert waiting <= units(answer, "unknown") and not waiting & units(answer, "accepted")
    _, answer, _ = ask(capsys, "--sos", tmp_path, "check", "--all")
    assert [found for found in answer["findings"] if found["status"] in ("warning", "critical")] == []
    firmware = re.findall(r"^0x([0-9a-f]+) 0x([0-9a-f]+) ", capture.account("firmware-memmap"), re.M)
    said = ask(capsys, "--sos", tmp_path, "e820")[1]["tables"]["firmware"]
    assert [(e["start"], e["end"]) for e in said] == [(int(low, 16), int(last, 16) + 1) for low, last in firmware]
    if capture.dump.exists():
        tables = [ask(capsys, *target, "e820")[1]["tables"] for target in (("--sos", tmp_path), ("-c", capture.dump))]
        # RAM under setup_data has a type of its own before 7.2, and is System RAM in /proc/iomem.
        of_sos, of_dump = ([[e["start"], e["end"], e["type"] % 127] for e in each["current"]] for each in tables)
        assert joined(of_sos) == joined(of_dump)
        assert tables[0]["firmware"] == tables[1]["firmware"]


def joined(entries: list[list[int]]) -> list[list[int]]:
    """Neighbours of one type as one."""
    found: list[list[int]] = []
    for start, end, type_ in sorted(entries):
        if found and found[-1][1:] == [start, type_]:
            found[-1][1] = end
        else:
            found.append([start, end, type_])
    return found
