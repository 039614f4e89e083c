# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits: each is documented and used; at that of a file or answer an answer, one beyond it one line."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.codec import Context, parse_json
from drgn_unaccepted.commands import ranges as ranges_question
from drgn_unaccepted.commands import resolve as resolve_question
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.fleet.targets import find_targets
from drgn_unaccepted.snapshot_file import check_consistency
from tests.checks.build import clean
from tests.fuzz import files
from tests.fuzz.case import sample
from tests.fuzz.run import command, document
from tests.samples_over_time import listed, with_list
from tests.targets.elf_dump import SAMPLES

TOP = Path(__file__).parent.parent
NAMES = [name for name in vars(limits) if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)]


def test_every_limit_is_used() -> None:
    code = "\n".join(path.read_text() for path in (TOP / "drgn_unaccepted").rglob("*.py") if path.name != "limits.py")
    assert [name for name in NAMES if not re.search(rf"\b{name}\b", code)] == []


@pytest.mark.parametrize("script", ("limits-doc", "rules-doc", "schemas"))
def test_what_a_script_wrote_is_up_to_date(script: str) -> None:
    subprocess.run([sys.executable, str(TOP / "scripts" / script), "--check"], check=True)


def test_the_page_has_every_limit() -> None:
    page = (TOP / "docs" / "limits.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == NAMES


def edge(monkeypatch: pytest.MonkeyPatch, holder: object, name: str, value: int, argv: tuple[object, ...]) -> str:
    """The command answers if the limit is ``value``; the one line that it prints if it is one less."""
    monkeypatch.setattr(holder, name, value)
    assert command(*argv)[0] == 0
    monkeypatch.setattr(holder, name, value - 1)
    status, _, said = command(*argv)
    assert status == 3 and len(said) == 1
    return said[0]


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "snapshot"
    path.write_text(files.snapshot_text("6.12-fill"))
    size, argv = path.stat().st_size, ("--snapshot", path, "header")
    assert f"more than {size - 1} bytes" in edge(monkeypatch, limits, "SNAPSHOT_FILE_BYTES", size, argv)
    path, text = tmp_path / "vmcoreinfo", sample("6.12-fill").vmcoreinfo
    argv = ("-c", SAMPLES / "6.12-fill" / "vmcore", "--vmcoreinfo", path, "header")
    path.write_bytes(text + b".a=1\n")
    assert command(*argv)[2][0].endswith(f"{path}: VMCOREINFO, damaged: a line begins with a dot")
    path.write_bytes(text)
    said = edge(monkeypatch, limits, "VMCOREINFO_BYTES", len(text), argv)
    assert f"{path}: not the text of a VMCOREINFO note" in said
    path, log = tmp_path / "log", b"\0" * 5000 + b"\nLinux version 6.12.9 (b@host)\n"
    path.write_bytes(log)
    assert "more than 5030 bytes, the limit" in edge(monkeypatch, limits, "LOG_FILE_BYTES", 5031, ("--log", path))
    reader, writer = os.pipe()
    os.write(writer, log)
    os.close(writer)
    assert "more than 5030 bytes" in command("--log", f"/dev/fd/{reader}")[2][0]
    os.close(reader)
    monkeypatch.undo()
    assert "4095 bytes of NULs" in edge(monkeypatch, limits, "LOG_NUL_BYTES", 4096, ("--log", path))
    path, lines = tmp_path / "recording", files.recording_lines()
    path.write_text("\n".join(lines) + "\n")
    said = edge(monkeypatch, limits, "RECORDING_HEADER_BYTES", len(lines[0]) + 1, ("replay", path))
    assert f"line 1: more than {len(lines[0])} bytes" in said


def test_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "snapshot"
    path.write_text(files.snapshot_text("6.12-fill"))
    argv: tuple[object, ...] = ("--snapshot", path, "ranges")
    there = len(document(*argv)["ranges"])
    assert f"more than {there - 1} ranges" in edge(monkeypatch, ranges_question, "DOCUMENT_RANGES", there, argv)
    argv = ("--snapshot", path, "resolve", "0-4G", "4G-8G")
    there = len(document(*argv)["addresses"])
    assert f"more than {there - 1} pieces" in edge(monkeypatch, resolve_question, "RESOLVED_PIECES", there, argv)


def test_values_targets_and_unpacked_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_FILE_VALUES", 3)
    assert parse_json(bytearray(b"[1,2,3]")) == [1, 2, 3]
    with pytest.raises(SnapshotFileError, match="more than 3 values"):
        parse_json(bytearray(b"[1,2,3,4]"))
    monkeypatch.setattr(limits, "FLEET_TARGETS", 2)
    assert len(list(find_targets([str(tmp_path / name) for name in "ab"]))) == 2
    with pytest.raises(Exception, match="more than 2 targets"):
        list(find_targets([str(tmp_path / name) for name in "abc"]))
    # For all packed values of a file together.
    monkeypatch.setattr(limits, "SNAPSHOT_UNPACKED_BYTES", 5000)
    one, two, more = (base64.b64encode(zlib.compress(bytes(size))).decode() for size in (3000, 2000, 1))
    context = Context()
    assert context.unpack(one, "one") + context.unpack(two, "two") == bytes(5000)
    with pytest.raises(SnapshotFileError, match=r"^three: more than 5000 bytes when unpacked$"):
        context.unpack(more, "three")


@pytest.mark.parametrize("runs", [3, 4])
def test_runs_of_chunks_in_a_list(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scattered list in a hostile snapshot would be an object for each chunk."""
    monkeypatch.setattr(limits, "LISTED_RUNS", 3)
    snapshot = clean()
    pfns = [snapshot.zones[-1].start_pfn + 2 * n * snapshot.kernel.chunk_pages for n in range(runs)]
    snapshot = with_list(snapshot, listed(pfns))
    if runs == 3:
        return check_consistency(snapshot)
    with pytest.raises(SnapshotFileError, match=r"^the list of zone Normal has more than 3 runs of chunks$"):
        check_consistency(snapshot)
