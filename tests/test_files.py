# SPDX-License-Identifier: LGPL-2.1-or-later
"""Devices, pipes and directories under the names of files: a reason in one line, and they are as they were."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_input
from tests.fuzz import files
from tests.fuzz.run import command
from tests.kernel.elf_dump import SAMPLES

SAMPLE = SAMPLES / "6.12-fill" / "vmcore"
TABLE = json.loads((SAMPLES / "6.12-fill" / "truth.json").read_text())["table_address"]


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / "snapshot"
    path.write_text(files.snapshot_text("6.12-fill"))
    return path


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A named pipe that nobody writes to."""
    monkeypatch.setattr(limits, "PIPE_SECONDS", 0.1)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def readers(path: Path, snapshot: Path) -> list[tuple[object, ...]]:
    return [
        ("-c", path, "summary"),
        ("-c", SAMPLE, "-s", path, "summary"),
        ("-c", SAMPLE, "--table", path, "header"),
        ("-c", SAMPLE, "--table", f"{path}@{TABLE:#x}", "header"),
        ("-c", SAMPLE, "--vmcoreinfo", path, "header"),
        ("--snapshot", path, "summary"),
        ("--snapshot", snapshot, "resolve", "-f", path),
        ("replay", path, "--source", "auto"),
        ("merge", path, "--format", "json"),
    ]


@pytest.mark.parametrize("number", range(9))
def test_a_pipe_that_nobody_writes_to(number: int, pipe: Path, snapshot: Path) -> None:
    status, _, said = command(*readers(pipe, snapshot)[number])
    assert status == 3
    assert f"{pipe}: " in said[0] and ("a pipe" in said[0] or "not a regular file" in said[0])


@pytest.mark.parametrize("number", range(9))
def test_a_device_is_not_opened(number: int, tmp_path: Path, snapshot: Path) -> None:
    """As /dev/mem, which can end a confidential guest. A link to one may lie in any archive of dumps."""
    device = tmp_path / "vmcore"
    device.symlink_to("/dev/zero")
    status, _, said = command(*readers(device, snapshot)[number])
    assert status == 3
    assert f"{device}: " in said[0] and ("a device" in said[0] or "not a regular file" in said[0])


def test_what_comes_through_a_pipe_is_read(tmp_path: Path) -> None:
    text = files.snapshot_text("6.12-fill").encode()
    named = tmp_path / "pipe"
    os.mkfifo(named)
    writer = threading.Thread(target=lambda: named.write_bytes(text))
    writer.start()
    with open_input(str(named)) as file:
        assert file.read() == text
    writer.join()
    # A shell's <(command).
    argv = [sys.executable, "-m", "drgn_unaccepted", "--snapshot", "/dev/stdin", "header", "--format", "json"]
    done = subprocess.run(argv, input=text, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["table"]["address"] == TABLE


def scan(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "drgn_unaccepted", "scan", "--quiet", "--timeout", "30", *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_scan_of_devices_and_pipes(tmp_path: Path, snapshot: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "vmcore").symlink_to("/dev/zero")
    os.mkfifo(archive / "vmcore.flat")
    (archive / "good").write_text(snapshot.read_text())
    done = scan("-o", tmp_path / "out", archive)
    assert (done.returncode, done.stderr) == (0, "")
    _, *records = map(json.loads, (tmp_path / "out").read_text().splitlines())
    errors = {Path(record["target"]["path"]).name: record["error"] for record in records}
    assert errors["good"] is None
    for name, reason in (("vmcore", "a device"), ("vmcore.flat", "a pipe")):
        assert errors[name]["kind"] == "unreadable" and reason in errors[name]["reason"]


def test_a_pipe_where_the_record_should_go(tmp_path: Path, snapshot: Path) -> None:
    os.mkfifo(tmp_path / "snapshot.unaccepted.json")
    done = scan("--beside", snapshot)
    assert done.returncode == 3 and "snapshot.unaccepted.json: not a regular file" in done.stderr, done.stderr


# What is written


def writers(path: Path, snapshot: Path, records: Path) -> list[tuple[object, ...]]:
    return [
        ("--snapshot", snapshot, "snapshot", "-o", path),
        ("--snapshot", snapshot, "report", "-o", path),
        ("--snapshot", snapshot, "check", "-o", path),
        ("scan", "--quiet", "-o", path, snapshot),
        ("merge", records, "-o", path),
        ("merge", records, "--format", "csv", "-o", path),
    ]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("records")
    target = directory / "snapshot"
    target.write_text(files.snapshot_text("6.12-fill"))
    assert command("scan", "--quiet", "-o", directory / "records.jsonl", target)[0] == 0
    return directory / "records.jsonl"


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("kind", ("pipe", "link to a device", "directory"))
def test_nothing_but_a_regular_file_is_replaced(
    number: int, kind: str, tmp_path: Path, snapshot: Path, records: Path
) -> None:
    path = tmp_path / "there"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        # As /dev/stdout is one; the device itself only root could lose.
        path.symlink_to("/dev/full")
    before = path.lstat()
    names = {"snapshot", "there"}
    status, _, said = command(*writers(path, snapshot, records)[number])
    assert status == 3 and f"{path}: " in said[0]
    after = path.lstat()
    assert (after.st_ino, stat.S_IFMT(after.st_mode)) == (before.st_ino, stat.S_IFMT(before.st_mode))
    assert {entry.name for entry in tmp_path.iterdir()} == names
