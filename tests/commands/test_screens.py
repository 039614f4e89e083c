# SPDX-License-Identifier: LGPL-2.1-or-later
"""The screens of dumps at 80x24: golden files, and that no line of any command is wider.

The golden files were read line by line beside ``truth.json``. ``GOLDEN=write`` writes them again.
"""

from __future__ import annotations

import io
import os
import re
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.model.efi import parse_log_lines
from drgn_unaccepted.snapshot_file import read, write
from tests.asking import Capsys, Patch

TOP = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SAMPLES = sorted(path.parent.name for path in TOP.glob("vmcore-samples/*/vmcore"))
KDUMPS = ("6.12-fill-kdump", "7.3-fill-kdump")
#: A snapshot of the lab's capture of a panic in an accept, after `makedumpfile -l -d 31`, without its ACPI memory.
PANIC = "panic-kdump"
FIRST = ("summary", "check")
OTHERS = ("header", "ranges", "zones", "efi", "e820", "accepting", "map")
#: An address out of an oops in the direct map of the first boot, and one with a C-bit.
RESOLVE = "resolve -v ffffa00de5a00008 0x8000125a00000"
WIDE = (
    *FIRST,
    *OTHERS,
    RESOLVE,
    "map --range 0x125000000-0x129000000",
    "ranges --source page-lists",
    "check --all",
    "efi --all",
    "efi --type 15",
    "-v",
)
SHOWN = dict.fromkeys((*KDUMPS, "6.12-fill", "6.12-panic"), FIRST)
SHOWN[PANIC] = (*FIRST, "accepting", "resolve 0x110c00000")
SHOWN["6.12-fill-kdump"] = (*FIRST, *OTHERS, RESOLVE)


def screen(sample: str, words: str, capsys: Capsys, patch: Patch) -> str:
    """What a terminal shows of one command."""
    patch.chdir(TOP)
    patch.setenv("COLUMNS", "80")
    patch.setenv("NO_COLOR", "1")
    patch.setattr(sys.stderr, "isatty", lambda: True)
    # A busy machine is slow enough to show it.
    patch.setattr("drgn_unaccepted.run._progress", nullcontext)
    target: tuple[str, ...] = ("-c", f"vmcore-samples/{sample}/vmcore")
    if sample == PANIC:
        target = ("--snapshot", f"tests/commands/golden/{sample}.json")
    elif words.startswith(("--snapshot", "scan")):
        target = ()
    with suppress(SystemExit):
        main([*target, *words.split()])
    return "".join(capsys.readouterr())


@pytest.mark.parametrize("sample", SHOWN)
def test_the_screens(sample: str, capsys: Capsys, monkeypatch: Patch) -> None:
    text = ""
    for words in SHOWN[sample]:
        found = screen(sample, words, capsys, monkeypatch)
        assert len(found.splitlines()) <= 24, words
        assert found.count("kdump omits ACPI memory") <= 1, words
        # A new rule changes no screen.
        found = re.sub(r" *\d+(?= rules passed| skipped:| need the table)", " N", found)
        text += f"$ {words}\n{found}"
    path = GOLDEN / f"{sample}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("sample", SAMPLES)
def test_no_line_is_wider_than_the_screen(sample: str, capsys: Capsys, monkeypatch: Patch, tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    screen(sample, f"snapshot -o {path}", capsys, monkeypatch)
    for words in (*WIDE, "check --rule no-such-rule-at-all-and-its-name-is-long", "summary --source bitmap"):
        text = screen(sample, f"--snapshot {path} {words}", capsys, monkeypatch)
        assert [line for line in text.splitlines() if len(line) > 80] == [], words


def test_lines_of_stderr_are_wrapped_and_paths_whole(capsys: Capsys, monkeypatch: Patch, tmp_path: Path) -> None:
    """A path that is cut in two cannot be copied. Where it is no terminal, the line is one: see test_scan."""
    notes = tmp_path / ("d" * 99) / "notes"
    notes.parent.mkdir()
    notes.write_text("")
    words = f"scan -o {tmp_path}/out {notes.parent} vmcore-samples/6.12-fill/vmcore"
    text = screen("6.12-fill", words, capsys, monkeypatch)
    assert text.startswith(f"scan: skipped 1 file that is neither dump nor snapshot:\n    {notes}\n")


def test_why_there_is_no_efi_map_is_said_by_efi_alone(capsys: Capsys, monkeypatch: Patch, tmp_path: Path) -> None:
    why = "boot-map: not here; kernel-log: no lines (efi=debug); runtime-map: is the boot map"
    path = tmp_path / "snapshot"
    screen(KDUMPS[0], f"snapshot -o {path}", capsys, monkeypatch)
    kdump = read(str(path))
    write(replace(kdump, efi_map=None, missing={**kdump.missing, "efi_map": why}), str(path))
    text = screen(KDUMPS[0], f"--snapshot {path} check", capsys, monkeypatch)
    # Of two reasons both are counted.
    assert "skipped, some for several reasons:\n  11 need the table, which was not captured\n" in text
    assert "   5 need the EFI memory map (see efi)\n" in text
    text += screen(KDUMPS[0], f"--snapshot {path} resolve 0x12a000000", capsys, monkeypatch)
    assert "EFI           unknown: no EFI memory map (see efi)\n" in text and "runtime-map" not in text
    assert why in " ".join(screen(KDUMPS[0], f"--snapshot {path} efi", capsys, monkeypatch).split())


def test_dmesgs_words_are_read_back(capsys: Capsys, monkeypatch: Patch, tmp_path: Path) -> None:
    """The log of the kernel has them so, too: see scripts/lab."""
    screen("6.12-fill", f"snapshot -o {tmp_path / 'snapshot'}", capsys, monkeypatch)
    descriptors = read(str(tmp_path / "snapshot")).efi_map.descriptors  # type: ignore[union-attr]
    text = screen("6.12-fill", "efi --dmesg", capsys, monkeypatch)
    assert parse_log_lines(text.splitlines()) == (list(descriptors), None)
    text = screen("6.12-fill", "e820 --dmesg", capsys, monkeypatch)
    # serial.log of the capture.
    assert "BIOS-e820: [mem 0x0000000000806000-0x0000000000807fff] ACPI NVS\n" in text


@pytest.mark.parametrize(
    ("rule", "said"), (("c5", "table-aligned (C5)"), ("table-alined", "did you mean table-aligned"), ("xyz", "--list"))
)
def test_rules_by_number_and_near_misses(rule: str, said: str, capsys: Capsys, monkeypatch: Patch) -> None:
    assert said in " ".join(screen("6.12-fill", f"check --explain {rule}", capsys, monkeypatch).split())


def test_colour_is_for_terminals_that_want_it(capsys: Capsys, monkeypatch: Patch) -> None:
    for no_color, is_terminal in (("", True), ("1", True), ("", False)):
        output = io.StringIO()
        monkeypatch.setattr(output, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setenv("NO_COLOR", no_color)
        main(["-c", str(TOP / "vmcore-samples/6.12-panic/vmcore"), "check"])
        assert ("\x1b[1;37;41mCRITICAL" in output.getvalue()) is (is_terminal and not no_color)
