# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unpacked sos reports as a target: what their files prove together, and what each of them lacks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.log.boots import BootLog
from drgn_unaccepted.log.sos import _iomem, _meminfo, _zones
from tests.asking import Capsys, ask, refused

from .test_log import E820, GIB, LOG

MIB = 1 << 20


def zone(name: str, free: int, sizes: tuple[int, int, int], start: int, unaccepted: Optional[int]) -> str:
    """A zone as zoneinfo_show_print() writes it; present and managed pages are alike."""
    boost, low, pages = sizes
    counts = {"free": free, "boost": boost, "min": low, "low": low + 10, "high": low + 20, "promo": low + 30}
    counts |= {"spanned": pages, "present": pages, "managed": pages, "cma": 0}
    text = "".join(f"{'  pages ' if key == 'free' else '        '}{key:8} {n}\n" for key, n in counts.items())
    text += f"        protection: (0, 0, 0)\n      nr_free_pages {free}\n"
    text += "" if unaccepted is None else f"      nr_unaccepted {unaccepted}\n"
    text += "  pagesets\n    cpu: 0\n              count: 7\n              high:  99999\n              batch: 1\n"
    return f"Node 0, zone {name:>8}\n{text}  vm stats threshold: 4\n  start_pfn:           {start}\n"


DMA32 = zone("DMA32", 0x1003, (0, 50, 0x80000), 0, 0)
#: Of 600 unaccepted chunks and three pages; the watermarks have a boost of 5.
NORMAL = zone("Normal", 100 * 1024 + 3, (5, 105, 0x80000), 0x100000, 100 * 1024)
FILES = {
    "proc/meminfo": f"MemTotal: 4194304 kB\nMemFree:  {4 * (0x1006 + 100 * 1024)} kB\nUnaccepted:  409600 kB\n",
    "proc/zoneinfo": DMA32 + NORMAL + zone("Movable", 0, (0, 32, 0), 0, None),
    "proc/buddyinfo": f"Node 0, zone    DMA32 {'3 ' + '0 ' * 9 + '4 '}\nNode 0, zone   Normal {'3 ' + '0 ' * 10}\n",
    "proc/iomem": """\
00000000-00000fff : Reserved
00001000-7fffffff : System RAM
  03000000-03ffffff : Kernel code
80000000-8000ffff : ACPI Tables
a0000000-bfffffff : PCI Bus 0000:00
  b0000000-bfffffff : Reserved
100000000-17fffffff : System RAM
180000000-1bfffffff : System RAM
""",
    "proc/cmdline": "root=/dev/vda efi=debug\n",
    "sos_commands/kernel/dmesg": "".join(f"[    0.000000] {line}\n" for line in LOG),
    "sos_commands/kernel/uname_-a": "Linux vm 6.12.9 #1 SMP PREEMPT_DYNAMIC x86_64 GNU/Linux\n",
}


def report(top: Path, **changes: Optional[str]) -> Path:
    """A report with files changed, or None: left out; by the last word of their names."""
    for name, text in FILES.items():
        text = changes.get(name.rpartition("/")[2].partition("_")[0], text)
        if text is not None:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(text)
    return top


def test_a_whole_report(tmp_path: Path, capsys: Capsys) -> None:
    top = report(tmp_path)
    status, answer, err = ask(capsys, "--sos", top)
    assert (status, err, answer["target"]["kind"], answer["target"]["release"]) == (0, "", "sos", "6.12.9")
    assert (answer["nr_unaccepted_bytes"], answer["initially_unaccepted_bytes"]) == (400 * MIB, GIB)
    assert (answer["unaccepted_bytes_min"], answer["unaccepted_bytes_max"]) == (0, GIB)
    assert answer["table"]["address"] == 0x80000018 and answer["chunk_bytes"] == 4 * MIB
    assert not answer["missing"].keys() & {"platform", "efi_map", "e820", "panic", "counters", "zones", "kernel"}
    _, answer, _ = ask(capsys, "--sos", top, "resolve", "0x100000000", "0x140000000", "0x1c0000000")
    assert [each["state"] for each in answer["addresses"]] == ["accepted", "unknown", "no-ram"]
    assert [(each["zone"], each["listed"]) for each in answer["addresses"]] == [("Normal", None)] * 2 + [(None, None)]
    assert "was accepted since: an sos report has no lists" in answer["addresses"][1]["reason"]
    _, answer, _ = ask(capsys, "--sos", top, "zones")
    low, normal = answer["zones"]
    assert (low["buddy_bytes"], low["free_bytes"], low["unaccepted_bytes"]) == (0x1003 << 12, 0x1003 << 12, 0)
    assert (normal["start"], normal["end"], normal["unaccepted_bytes"]) == (4 * GIB, 6 * GIB, 400 * MIB)
    assert (normal["listed_chunks"], normal["listed"], normal["locked"]) == (None, None, None)
    marks = {"min": 100, "low": 110, "high": 120, "promo": 130, "boost": 5}
    assert normal["watermarks"] == {name: pages << 12 for name, pages in marks.items()}
    _, answer, _ = ask(capsys, "--sos", top, "e820")
    # What is above the RAM of the boot was added since.
    assert [[e["start"], e["end"], e["type"]] for e in answer["tables"]["current"]] == [
        *([0, 0x1000, 2], [0x1000, 2 * GIB, 1], [2 * GIB, 2 * GIB + 0x10000, 3]),
        *([0xB0000000, 0xC0000000, 2], [4 * GIB, 6 * GIB, 1]),
    ]
    assert len(answer["tables"]["firmware"]) == len(E820) - 1


def check(capsys: Capsys, top: Path) -> dict[str, tuple[str, str]]:
    _, answer, _ = ask(capsys, "--sos", top, "check", "--all")
    return {finding["rule"]: (finding["status"], finding["message"]) for finding in answer["findings"]}


def test_rules_that_need_only_this(tmp_path: Path, capsys: Capsys) -> None:
    found = check(capsys, report(tmp_path))
    rules = ("global-counter-matches-zones", "free-pages-include-unaccepted", "table-expected", "eager-means-empty")
    assert {found[rule][0] for rule in (*rules, "efi-unaccepted-has-table", "hot-added-memory-accepted")} == {"pass"}
    assert found["list-entries-sane"] == ("skip", "zones.listed: an sos report has no lists of unaccepted memory")
    # The kernel accepted a chunk between two files.
    moved = check(capsys, report(tmp_path, meminfo=FILES["proc/meminfo"].replace("409600", "405504")))
    assert moved["global-counter-matches-zones"][0] == "info"
    added = NORMAL.replace("spanned  524288", "spanned  786432")
    assert check(capsys, report(tmp_path, zoneinfo=DMA32 + added))["hot-added-memory-accepted"][0] == "warning"
    lines = FILES["sos_commands/kernel/dmesg"].replace("efi=debug", "accept_memory=eager")
    assert check(capsys, report(tmp_path, dmesg=lines))["eager-means-empty"][0] == "critical"


@pytest.mark.parametrize(
    ("name", "text", "lost", "why"),
    [
        ("meminfo", None, "counters", "proc/meminfo: not in this report"),
        ("meminfo", "MemTotal: 1 kB\n", "counters", "proc/meminfo: not as the kernel prints it"),
        ("zoneinfo", None, "zones kernel", "proc/zoneinfo or proc/buddyinfo: not in this report"),
        ("zoneinfo", NORMAL.replace("start_pfn", "x"), "zones kernel", "not as the kernel prints it"),
        ("buddyinfo", "", "zones kernel", "not as the kernel prints it"),
        ("iomem", "00000000-00000000 : System RAM\n", "e820.current", "iomem: no addresses: it was not read as root"),
        ("iomem", "0-fff : Reserved\n" * 9999, "e820.current", f"more than {limits.E820_ENTRIES} entries"),
        ("iomem", "x" * (16 * MIB + 1), "e820.current", "proc/iomem: more than 16 MiB"),
        ("dmesg", None, "panic efi_map e820.firmware platform", "sos_commands/kernel/dmesg: not in this report"),
        ("uname", "Linux vm 6.12.8 #1", "panic efi_map e820.firmware platform", "of 6.12.9, and uname says 6.12.8"),
        ("uname", None, "release", "not in this report"),
    ],
)  # fmt: skip
def test_what_a_report_lacks(
    name: str, text: Optional[str], lost: str, why: str, tmp_path: Path, capsys: Capsys
) -> None:
    top = report(tmp_path, **{name: text})
    status, answer, _ = ask(capsys, "--sos", top)
    assert status == 0
    assert all(why in answer["missing"][part] or part == "kernel" for part in lost.split())
    rest = {"panic", "efi_map", "platform", "counters", "zones", "kernel", "e820.current", "e820.firmware"}
    assert not answer["missing"].keys() & (rest - set(lost.split()))
    # A file that snapshot writes is read again, so that each reason is there.
    assert ask(capsys, "--sos", top, "snapshot", "-o", tmp_path / "s")[0] == 0
    assert ask(capsys, "--snapshot", tmp_path / "s", "efi")[0] == (3 if "efi_map" in lost else 0)
    if "efi_map" in lost:
        assert not any(each["state"] == "accepted" for each in ask(capsys, "--sos", top, "ranges")[1]["ranges"] or ())


@pytest.mark.parametrize("way", ["file", "directory", "loop", "pipe"])
def test_nothing_but_files_of_the_report_is_read(way: str, tmp_path: Path, capsys: Capsys) -> None:
    top, outside = report(tmp_path / "top"), report(tmp_path / "outside") / "proc"
    file = top / "proc" / "meminfo"
    file.unlink()
    if way == "directory":
        (top / "proc").rename(top / "old")
        (top / "proc").symlink_to(outside)
    elif way == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(outside / "meminfo" if way == "file" else file)
    _, answer, _ = ask(capsys, "--sos", top)
    assert answer["missing"]["counters"] == "proc/meminfo: not in this report"
    # One within it is followed.
    if way == "file":
        file.unlink()
        file.with_name("other").write_text(FILES["proc/meminfo"])
        file.symlink_to("other")
        assert "counters" not in ask(capsys, "--sos", top)[1]["missing"]


def test_a_ring_buffer_that_lost_its_beginning(tmp_path: Path, capsys: Capsys) -> None:
    """What is left of the e820 table is not the table; that of /proc/iomem is whole."""
    lines = "".join(f"[    0.000000] {line}\n" for line in LOG[4:])
    top = report(tmp_path, dmesg=lines)
    _, answer, _ = ask(capsys, "--sos", top, "resolve", "0x100000000", "0x1000")
    assert [each["state"] for each in answer["addresses"]] == ["unknown"] * 2
    _, answer, _ = ask(capsys, "--log", top / "sos_commands/kernel/dmesg", "resolve", "0x1000")
    assert answer["addresses"][0]["state"] == "unknown"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--log", "README.md"], "README.md: no kernel log"),
        (["--log", "/nonexistent"], "/nonexistent: No such file"),
        (["--log", "LOG", "--table", "x"], "--log alone is a target that is text: --table"),
        (["--log", "LOG", "record", "-o", "x"], "takes no --log"),
        (["--log", "LOG", "--snapshot", "x"], "--log is for the command snapshot"),
        (["--sos", "README.md"], "README.md: no directory: unpack the report first"),
        (["--sos", "docs"], "docs: no report of sos"),
        (["--sos", "TOP", "--table", "x"], "--sos is a target that is text: --table"),
        (["--sos", "TOP", "--log", "x"], "--sos is a target that is text: --log"),
        (["--sos", "TOP", "record", "-o", "x"], "takes no --sos"),
    ],
)
def test_refusals(words: list[str], why: str, tmp_path: Path, capsys: Capsys) -> None:
    top = report(tmp_path)
    names = {"TOP": top, "LOG": top / "sos_commands/kernel/dmesg"}
    assert why in refused(capsys, *(names.get(word, word) for word in words))


PIECES = st.sampled_from(
    [*DMA32.splitlines(), *FILES["proc/buddyinfo"].splitlines(), *FILES["proc/iomem"].splitlines()]
)


@given(st.lists(PIECES | st.text(max_size=30), max_size=40).map("\n".join), st.integers(0, 400), st.text(max_size=9))
def test_any_text_is_read_or_refused(text: str, at: int, new: str) -> None:
    text = text[:at] + new + text[at:]
    for parse in (_meminfo, lambda text: _iomem(text, BootLog()), lambda text: _zones(text, text)):
        try:
            parse(text)
        except (ValueError, LookupError):
            continue
