# SPDX-License-Identifier: LGPL-2.1-or-later
"""sos reports made of what guests of the lab said of themselves, compared with their own account and their dumps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.asking import Capsys
from tests.lab.asking import NEEDS_CAPTURES, ask, ids
from tests.lab.captures import Capture, all_captures, units

pytestmark = NEEDS_CAPTURES

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
