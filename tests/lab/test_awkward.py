# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of real guests that drgn cannot open or read: the answers are the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import drgn
import pytest

from drgn_unaccepted.targets.elf import read_elf_core
from drgn_unaccepted.targets.vmcoreinfo_search import find_vmcoreinfo, work_out_vmcoreinfo
from tests.asking import Capsys
from tests.lab.asking import NEEDS_CAPTURES, ask, ids
from tests.lab.captures import Capture, all_captures, captures, find, note_of, set_units, units

pytestmark = NEEDS_CAPTURES

COMMANDS = (["summary"], ["ranges"], ["resolve", "0-8G"], ["zones"], ["efi"], ["e820"], ["accepting"], ["check"])
DUMPS = [capture for capture in captures() if (capture.path / "dump.elf").exists()]


def answers(capsys: Capsys, *target: object) -> list[tuple[int, Any]]:
    """All answers, without what differs between dumps of the same guest."""
    found = []
    for command in COMMANDS:
        status, document, _ = ask(capsys, "-c", *target, *command)
        for key in ("path", "taken_at", "debug_info"):
            del document["target"][key]
        found.append((status, document))
    return found


# VMCOREINFO found in memory, and worked out from registers


DIED_EARLY = [c for c in all_captures() if c.path.name in ("early", "stock-panic", "reservation")]
WITH_NOTE = [capture for capture in DUMPS if note_of(capture.dump) is not None]


@pytest.mark.parametrize("capture", WITH_NOTE, ids=ids)
def test_vmcoreinfo_in_memory_is_the_note(capture: Capture) -> None:
    """The guest's driver told QEMU where it is; we find it without that, also after a kexec."""
    core = read_elf_core(str(capture.dump))
    assert find_vmcoreinfo(core)[0] == note_of(capture.dump)


@pytest.mark.parametrize("capture", WITH_NOTE, ids=ids)
@pytest.mark.parametrize("source", ["vmlinux", "kallsyms"])
def test_vmcoreinfo_from_registers_agrees_with_the_note(source: str, capture: Capture) -> None:
    core = read_elf_core(str(capture.dump))
    worked = entries(work_out_vmcoreinfo(core, [capture.vmlinux] if source == "vmlinux" else [])[0])
    noted = entries(note_of(capture.dump))
    assert len(worked) >= 15
    assert worked == {name: noted[name] for name in worked}


def entries(text: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.decode().splitlines())


@pytest.mark.parametrize("capture", find("novmcoreinfo"), ids=ids)
def test_a_dump_without_the_note_opens(capture: Capture, capsys: Capsys, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unrecognized QEMU memory dump"):
        drgn.Program().set_core_dump(str(capture.dump))
    status, document, err = ask(capsys, "-c", capture.dump, "ranges")
    assert status == 0
    assert re.fullmatch(r"drgn-unaccepted: warning: \S+: no VMCOREINFO note; it was found in .* at 0x[0-9a-f]+\n", err)
    assert (document["source"], document["exact"]) == ("bitmap", True)
    assert units(document, "unaccepted") == capture.unaccepted_units()
    assert document["nr_unaccepted_bytes"] == capture.nr_unaccepted()
    # As with the text from a file, which is then not sought.
    file = tmp_path / "vmcoreinfo"
    core = read_elf_core(str(capture.dump))
    file.write_bytes(find_vmcoreinfo(core)[0])
    status, given, err = ask(capsys, "-c", capture.dump, "--vmcoreinfo", file, "ranges")
    assert (status, err) == (0, "")
    assert given["ranges"] == document["ranges"]


@pytest.mark.parametrize("capture", DIED_EARLY, ids=ids)
def test_a_guest_that_died_before_vmcoreinfo(capture: Capture, capsys: Capsys) -> None:
    """By itself, with a kernel image or with a vmlinux: the bitmap says what it says without any reader of ours."""
    table, base, _, bitmap = capture.table()
    unaccepted = set_units(base, bitmap)
    assert len(unaccepted) > 100 and unaccepted <= capture.initial_units()
    kernel = capture.json("scenario.json")["kernel"]
    files = [("-s", path) for path in (kernel["vmlinux"], kernel["source"]) if path and Path(path).is_file()]
    for way in ((), *files, *((*file, "--debug-info", "btf") for file in files)):
        status, document, err = ask(capsys, "-c", capture.dump, *way, "ranges")
        assert status == 0 and "addresses are from the registers of CPU 0 and " in err
        assert document["target"]["release"] == kernel["release"] and document["table"]["address"] == table
        assert units(document, "unaccepted") == unaccepted


@pytest.mark.parametrize("capture", [c for c in DIED_EARLY if c.path.name == "stock-panic"], ids=ids)
def test_a_stock_kernel_dead_of_unaccepted_memory_tells_all(capture: Capture, capsys: Capsys) -> None:
    """Nobody could accept anything, so the bitmap is the stub's; and the accept that it died of is in flight."""
    assert units(ask(capsys, "-c", capture.dump, "ranges")[1], "unaccepted") == capture.initial_units()
    assert len(ask(capsys, "-c", capture.dump, "accepting")[1]["accepting"]) == 1
    status, document, _ = ask(capsys, "-c", capture.dump, "check")
    failed = {finding["rule"] for finding in document["findings"] if finding["status"] != "pass"}
    assert status == 2 and failed >= {"accepting-ranges-sane", "platform-can-accept"}


# QEMU's kdump-compressed form


@pytest.mark.parametrize("capture", find("fill"), ids=ids)
def test_qemus_kdump_form_answers_as_its_elf_form(capture: Capture, capsys: Capsys, tmp_path: Path) -> None:
    path = capture.path / "dump.kdump-zlib"
    with pytest.raises(Exception, match="KDUMP_ATTR_ARCH_NAME"):
        drgn.Program().set_core_dump(str(path))
    expected = answers(capsys, capture.dump)
    assert answers(capsys, path) == expected
    # Unflattened, as makedumpfile does it, and with VMCOREINFO's text from elsewhere.
    raw, text = tmp_path / "kdump", tmp_path / "vmcoreinfo"
    with path.open("rb") as file:
        subprocess.run(["makedumpfile", "-R", raw], stdin=file, stdout=subprocess.DEVNULL, check=True, timeout=300)
    text.write_bytes(note_of(capture.dump))
    assert answers(capsys, raw) == expected
    assert answers(capsys, path, "--vmcoreinfo", text) == expected


@pytest.mark.parametrize("capture", find("fill"), ids=ids)
@pytest.mark.parametrize("dump", ("kdump.z", "kdump.flat", "dump.kdump-zlib"))
def test_a_compressed_dump_cut_short_says_so_and_no_more_than_it_has(
    capture: Capture, dump: str, capsys: Capsys, tmp_path: Path
) -> None:
    """libkdumpfile dies of such files (SIGBUS), which would end this test, too."""
    data = (capture.path / dump).read_bytes()
    path = tmp_path / dump
    for kept in (4096, 300_000, 335_873, 19_122_673, 21_078_015, len(data) // 2, len(data) - 100):
        path.write_bytes(data[:kept])
        status, document, err = ask(capsys, "-c", path, "ranges")
        assert len(err.splitlines()) <= 2 and "cut short" in err and (status == 3 or document["ranges"]), kept
        assert status or not units(document, "accepted") & capture.unaccepted_units(), kept
