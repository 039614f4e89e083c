# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel logs as a target, and beside a dump: what they prove, in each shape that people paste."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.kernel import printk as ring
from drgn_unaccepted.log.boots import efi_map, read_boots
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.asking import SAMPLES, ask, truth, units

SAMPLE = SAMPLES / "6.12-fill-kdump"
GIB = 1 << 30


def entry(number: int, name: str, start: int, end: int) -> str:
    attributes = "|".join(["   ", *["  "] * 9, "   ", "WB", "WT", "WC", "UC"])
    return f"efi: mem{number:02}: [{name:12}|{attributes}] range=[{start:#018x}-{end - 1:#018x}] (1MB)"


HEAD = ["Linux version 6.12.9 (b@host) (gcc 14.2.0) #1 SMP", "Command line: root=/dev/vda efi=debug"]
E820 = [
    "BIOS-e820: [mem 0x0000000000000000-0x000000007fffffff] usable",
    "BIOS-e820: [mem 0x0000000080000000-0x000000008000ffff]  ACPI data",
    "BIOS-e820: [gap 0x0000000080010000-0x00000000ffffffff]",
    "BIOS-e820: [mem 0x0000000100000000-0x000000017fffffff]  System RAM",
]
TABLES = "efi: SMBIOS=0x7fe00000 ACPI=0x8000f000 ACPI 2.0=0x8000f014 Unaccepted=0x80000018 "
MAP = [
    entry(0, "Conventional", 0, 2 * GIB),
    entry(1, "ACPI Reclaim", 2 * GIB, 2 * GIB + 0x10000),
    entry(2, "Conventional", 4 * GIB, 5 * GIB),
    entry(3, "Unaccepted", 5 * GIB, 6 * GIB),
]
RUNTIME = ["efi: EFI runtime memory map:", entry(0, "Runtime Data", 0x7F000000, 0x7F100000)]
TDX = "Memory Encryption Features active: Intel TDX"
TASK = "CPU: 1 UID: 0 PID: 74 Comm: kworker/1:2 Kdump: loaded Not tainted 6.12.9 #1"
LAST_PFN = "last_pfn = 0x180000 max_arch_pfn = 0x400000000"
LOG = [*HEAD, *E820, TABLES, *MAP, LAST_PFN, TDX, *RUNTIME]


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "[    0.000000] ", "<6>[    0.000000] ", "kern  :info  : [    0.000000] ", "[Thu Nov 26 04:00:00 2026] "),
        *("Nov 26 04:00:00 vm-1 kernel: ", "2026-11-26T04:00:00,123456+00:00 ", "[    0.000000][    T0] "),
        *("Nov  6 04:00:00 vm-1.example kernel: [    0.000000] ", "[    0.000000] vm-1 kernel: ", "> [    0.000000] "),
        *("2026-11-26T04:00:00+0000 vm kernel: ", "[    0.000000] [    T0] ", "\x1b[32m[    0.000000] \x1b[0m\x1b[33m"),
    ],
)
def test_a_whole_log_in_each_shape(prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log"
    file.write_text("".join(f"{prefix}{line}\r\n" for line in LOG))
    status, answer, err = ask(capsys, "--log", file, "resolve", "0x100000000", "0x140000000", "0x200000000")
    assert (status, err) == (0, "")
    # Nothing that was unaccepted at boot is ever called accepted, or unaccepted.
    assert [each["state"] for each in answer["addresses"]] == ["accepted", "unknown", "no-ram"]
    assert "unaccepted at boot" in answer["addresses"][1]["reason"]
    assert answer["addresses"][0]["e820"]["name"] == "RAM"
    status, answer, err = ask(capsys, "--log", file)
    assert (answer["target"]["kind"], answer["target"]["release"]) == ("log", "6.12.9")
    assert answer["table"]["address"] == 0x80000018
    assert (answer["unaccepted_bytes_min"], answer["unaccepted_bytes_max"]) == (0, GIB)
    assert answer["platform"] == {"kind": "tdx", "cc_vendor": "INTEL", "lazy": True}
    assert not answer["missing"].keys() & {"platform", "efi_map", "e820", "panic"}
    assert ask(capsys, "--log", file, "efi")[1]["complete"] is True


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([*HEAD, *E820, TABLES, *MAP[:3], *RUNTIME], "of RAM at 0x140000000"),
        ([*HEAD, *E820[:3], TABLES, *MAP], "lacks e820 lines: of RAM at 0x100000000"),
        ([*HEAD, *E820[:3], TABLES, *MAP[:2]], "no entry of type 15"),
        ([*HEAD, TABLES, *MAP], "no BIOS-e820 lines"),
        ([*HEAD, *E820[:3], LAST_PFN, *MAP[:2]], "lacks e820 lines"),
        ([*HEAD, *E820, TABLES, MAP[0], *MAP[2:]], "no mem01"),
        ([*E820, TABLES, *MAP], "the beginning of the boot"),
        ([*HEAD, "** 3 printk messages dropped **", *LOG[2:]], "dropped messages"),
        ([HEAD[0], HEAD[1] + " efi_fake_mem=1G@5G:0x10000", *LOG[2:]], "efi_fake_mem="),
        ([HEAD[0], HEAD[1] + " elfcorehdr=0x1000", *LOG[2:]], "kexec"),
        ([*HEAD, *E820, *(line.replace("Conventional", "Loader Data ") for line in MAP)], "kexec"),
        ([*HEAD, E820[0][:50], *LOG[3:]], "cannot be read"),
        ([*HEAD, *E820, TABLES, *(f"user  :info  : {line}" for line in MAP)], "no efi: mem lines"),
    ],
)
def test_a_log_that_is_not_whole_proves_nothing_accepted(
    lines: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log"
    file.write_text("\n".join(lines))
    status, answer, err = ask(capsys, "--log", file, "ranges")
    assert status == 3 and why in err
    assert not any(each["state"] == "accepted" for each in answer["ranges"] or ())
    # Nor that there is no RAM: 4 GiB is in all that was cut off here.
    _, answer, _ = ask(capsys, "--log", file, "resolve", "0x100000000")
    assert answer["addresses"][0]["state"] != "no-ram" or why == "no entry of type 15"


def test_an_e820_table_of_more_than_128_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first 128 are printed, and then all of them."""
    extended = ["extended physical RAM map:", *(line.replace("BIOS-e820", "extended") for line in E820)]
    extended += ["extended physical RAM map:", "reserve setup_data: [mem 0x0000000000000000-0x000000007fffffff] usable"]
    file = tmp_path / "log"
    for lines, state in (
        ([*E820[:2], *extended], "accepted"),
        (E820[:2], "unknown"),
        ([*E820[:2], *extended[:3]], "unknown"),
    ):
        file.write_text("\n".join([*HEAD, *lines, TABLES, *MAP, LAST_PFN]))
        _, answer, _ = ask(capsys, "--log", file, "resolve", "0x100000000")
        assert answer["addresses"][0]["state"] == state
    file.write_text("\n".join([*HEAD, *E820[:2], *extended, TABLES, *MAP, LAST_PFN]))
    tables = ask(capsys, "--log", file, "e820")[1]["tables"]
    assert [entry["start"] for entry in tables["firmware"]] == [0, 2 * GIB, 4 * GIB]


def test_of_several_boots_the_one_that_died(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crash_kernel = [HEAD[0], "Command line: elfcorehdr=0x1000", *E820, TABLES]
    older = [HEAD[0].replace("6.12.9", "6.12.1"), *LOG[1:]]
    file = tmp_path / "log"
    file.write_text("\n".join([*older, "tdx: Guest detected", *LOG, *crash_kernel]))
    _, answer, err = ask(capsys, "--log", file)
    assert answer["target"]["release"] == "6.12.9" and "3 boots, and this is number 2" in err


def test_a_boot_without_its_beginning_is_no_part_of_the_one_before() -> None:
    lines = [f"[    0.000000] {line}" for line in LOG]
    boots = read_boots([*lines, "[   90.000000] a", "[    1.000000] b", "[    2.000000] c"])
    assert [(boot.release, list(boot.stamped)) for boot in boots] == [
        ("6.12.9", ["90.000000 a"]),
        (None, ["1.000000 b", "2.000000 c"]),
    ]


def test_of_many_boots_the_last_are_kept() -> None:
    boots = read_boots(["Linux version 6.1 x", "efi: a"] * 300)
    assert len(boots) == limits.LOG_BOOTS


@given(st.lists(st.sampled_from(LOG) | st.text(max_size=60)).map("\n".join), st.integers(0, 200), st.text(max_size=9))
def test_any_text_gets_an_answer(text: str, at: int, new: str) -> None:
    for log in read_boots((text[:at] + new + text[at:]).split("\n")):
        found = efi_map(log, None)
        assert isinstance(found, str) or not found.complete or found.memory(15) in ([], [(5 * GIB, 6 * GIB)])


OTHER = "CPU: 0 PID: 1 Comm: init Tainted: G        W"


@pytest.mark.parametrize(
    ("lines", "task"),
    [
        (["Kernel panic - not syncing: X", TASK, OTHER, "---[ end Kernel panic - not syncing: X ]---"], (74, 1)),
        ([OTHER, "Kernel panic - not syncing: X", TASK], (74, 1)),
        (["Oops: Oops: 0000 [#1] SMP", TASK, "Kernel panic - not syncing: Fatal exception"], (74, 1)),
        (["Oops: Oops: 0000 [#1] SMP", OTHER, "Kernel panic - not syncing: X", TASK], (74, 1)),
        ([OTHER, "vm login: [    9.000000] Kernel panic - not syncing: X"], None),
    ],
)
def test_the_task_of_a_panic(lines: list[str], task: Optional[tuple[int, int]]) -> None:
    (log,) = read_boots(lines)
    assert log.panic in ("X", "Fatal exception")
    assert (log.panic_task and (log.panic_task.pid, log.panic_task.cpu)) == task
    assert log.panic_task is None or log.panic_task.comm == "kworker/1:2"


@cache
def logged() -> str:
    return "\n".join(ring.read_log_lines(open_vmcore(str(SAMPLE / "vmcore")).prog, stamped=True))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, None),
        (("6.12.117-lab", "6.12.118-lab"), "its release is 6.12.118-lab, the target's is 6.12.117-lab"),
        (("Unaccepted=0x1f773018", "Unaccepted=0x1f774018"), "its table is at 0x1f774018, the target's at 0x1f773018"),
        (("[ ", "[x"), "no lines with their time of printk are in both"),
        (("Command line: ", "Command line: elfcorehdr="), "only the kernel that wrote the dump"),
    ],
)
def test_a_log_fills_in_what_the_ring_buffer_lost(
    change: Optional[tuple[str, str]],
    why: Optional[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read, file, lines = ring.read_log_lines, tmp_path / "dmesg", logged()
    file.write_text(lines if change is None else lines.replace(*change))
    monkeypatch.setattr(ring, "read_log_lines", lambda *a, **k: [s for s in read(*a, **k) if "efi: mem" not in s])
    status, answer, err = ask(capsys, "-c", SAMPLE / "vmcore", "--log", file, "ranges")
    if why is not None:
        assert status == 3 and why in err
        return
    assert ask(capsys, "-c", SAMPLE / "vmcore")[1]["source"] == "page-lists"
    assert units(answer) == set(truth("6.12-fill-kdump")["unaccepted_units"])
    assert (answer["source"], answer["exact"]) == ("reconstructed", True)
