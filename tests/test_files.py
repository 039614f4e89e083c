# SPDX-License-Identifier: LGPL-2.1-or-later
"""Devices, pipes and directories under the names of files, and full disks: one line says why, and all is as it was."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_input, replacing, write_atomically
from drgn_unaccepted.record.keep import keep
from drgn_unaccepted.snapshot_file import read, write
from tests.asking import Patch
from tests.checks.build import clean
from tests.fuzz import files
from tests.fuzz.run import command
from tests.targets.elf_dump import SAMPLES

LONG = pytest.mark.long

SAMPLE = SAMPLES / "6.12-fill" / "vmcore"
TABLE = json.loads((SAMPLES / "6.12-fill" / "truth.json").read_text())["table_address"]


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / "snapshot"
    path.write_text(files.snapshot_text("6.12-fill"))
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
def test_pipes_without_a_writer_and_devices_are_not_read(
    number: int, tmp_path: Path, snapshot: Path, monkeypatch: Patch
) -> None:
    """For example /dev/mem, which can end a confidential guest. A link to one may lie in any archive of dumps."""
    monkeypatch.setattr(limits, "PIPE_SECONDS", 0.1)
    pipe, device = tmp_path / "vmcore", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path, kind in ((pipe, "a pipe"), (device, "a device")):
        status, _, said = command(*readers(path, snapshot)[number])
        assert status == 3
        assert f"{path}: " in said[0] and (kind in said[0] or "not a regular file" in said[0])


def test_what_comes_through_a_pipe_is_read(tmp_path: Path) -> None:
    text = files.snapshot_text("6.12-fill").encode()
    named = tmp_path / "pipe"
    os.mkfifo(named)
    writer = threading.Thread(target=lambda: named.write_bytes(text))
    writer.start()
    with open_input(str(named)) as file:
        assert file.read() == text
    writer.join()
    # The second is a shell's <(command).
    for name in ("-", "/dev/stdin"):
        argv = [sys.executable, "-m", "drgn_unaccepted", "--snapshot", name, "header", "--format", "json"]
        done = subprocess.run(argv, input=text, capture_output=True, check=True)
        assert json.loads(done.stdout)["table"]["address"] == TABLE


def test_a_pipe_where_the_record_should_go(tmp_path: Path, snapshot: Path) -> None:
    os.mkfifo(tmp_path / "snapshot.unaccepted.json")
    status, _, said = command("scan", "--quiet", "--beside", snapshot)
    assert status == 3 and "snapshot.unaccepted.json: not a regular file" in said[0]


# What is written


def test_nobody_sees_half_a_file(tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "file"
    write_atomically(str(path), "old")
    seen: list[str] = []
    monkeypatch.setattr("os.fsync", lambda descriptor: seen.append(path.read_text()))
    write_atomically(str(path), "new", 0o644)
    # Of the file, and of the directory after the rename.
    assert seen == ["old", "new"]
    assert path.stat().st_mode & 0o777 == 0o644
    monkeypatch.undo()
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        write_atomically(str(path), "to be passed on", mode=None)
        os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("fails", ("os.open", "os.fchmod", "os.fsync", "os.replace"))
def test_a_write_that_fails_leaves_the_old_file(fails: str, tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "file"
    write_atomically(str(path), "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fails, full)
        with pytest.raises(OSError, match="No space") as caught:
            write_atomically(str(path), "new")
    assert caught.value.filename == str(path)
    with pytest.raises(ZeroDivisionError), replacing(str(path)) as file:
        file.write(b"half" + bytes([1 // 0]))
    assert path.read_text() == "old" and path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(str(tmp_path / "no" / "file"), "")
    assert caught.value.filename == str(tmp_path / "no" / "file")


@pytest.mark.parametrize("format_", ["text", "json", "nagios", "junit", "prometheus"])
def test_who_can_read_a_file_learns_no_kernel_address(format_: str, tmp_path: Path) -> None:
    """A damaged list names the pointer, which gives away where KASLR put the kernel."""
    pointer, (zone, *more) = "0xffff888012345678", clean().zones or ()
    assert zone.listed is not None
    damaged = replace(zone, listed=replace(zone.listed, problems=(f"unaccepted_pages: {pointer} is no list_head",)))
    write(replace(clean(), zones=(damaged, *more)), str(tmp_path / "snapshot"))
    out = tmp_path / "out"
    command("--snapshot", tmp_path / "snapshot", "check", "--format", format_, "-o", out, fails=(0, 1, 2))
    public = format_ == "prometheus"
    assert (pointer in out.read_text(), out.stat().st_mode & 0o777) == (not public, 0o644 if public else 0o600)


@pytest.mark.parametrize(
    "words", ("--snapshot {} snapshot", "--snapshot {} report", "--snapshot {} check", "scan --quiet {}", "merge {}")
)
def test_nothing_but_a_regular_file_is_replaced(words: str, tmp_path: Path, snapshot: Path) -> None:
    pipe, directory, link = there = tuple(tmp_path / name for name in ("pipe", "directory", "link"))
    os.mkfifo(pipe)
    directory.mkdir()
    # /dev/stdout is such a link; only root could lose the device itself.
    link.symlink_to("/dev/full")
    before = [path.lstat() for path in there]
    target = Path(__file__).parent / "compatibility" / "scan.jsonl" if words.startswith("merge") else snapshot
    for path in there:
        status, _, said = command(*words.format(target).split(), "-o", path)
        assert status == 3 and f"{path}: " in said[0]
    assert [(s.st_ino, s.st_mode) for s in before] == [(s.st_ino, s.st_mode) for s in (p.lstat() for p in there)]
    assert {entry.name for entry in tmp_path.iterdir()} == {"snapshot", "pipe", "directory", "link"}


# A full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "worst-cases", path], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounts a file system, which is for root: {done.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def fill(disk: Path, free_pages: int) -> None:
    with (disk / "full").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate((os.fstat(file.fileno()).st_size // 4096 - free_pages) * 4096)


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


SNAPSHOT, RECORDS = "{snapshot}", "{records}"
#: Commands that write the file ``{}``, and whether it is larger than a page.
WRITERS: dict[str, tuple[tuple[object, ...], bool]] = {
    "snapshot": (("-c", SAMPLE, "snapshot", "-o", "{}"), True),
    "report": (("--snapshot", SNAPSHOT, "report", "-o", "{}.html"), True),
    "svg": (("--snapshot", SNAPSHOT, "map", "-o", "{}.svg"), True),
    "check": (("--snapshot", SNAPSHOT, "check", "-o", "{}"), False),
    "check as json": (("--snapshot", SNAPSHOT, "check", "--format", "json", "-o", "{}"), True),
    "merge as csv": (("merge", "--format", "csv", "-o", "{}", RECORDS), False),
    "scan": (("scan", "--quiet", "-o", "{}", SNAPSHOT), False),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("inputs")
    snapshot, records = directory / "snapshot", directory / "records"
    assert command("-c", SAMPLE, "snapshot", "-o", snapshot)[0] == 0
    assert command("scan", "--quiet", "-o", records, snapshot)[0] == 0
    return {"snapshot": str(snapshot), "records": str(records)}


@LONG
@pytest.mark.parametrize("free_pages", (0, 1))
@pytest.mark.parametrize("old", (False, True), ids=("new", "old"))
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, old: bool, free_pages: int, disk: Path, inputs: dict[str, str]) -> None:
    words, large = WRITERS[name]
    if free_pages and not large:
        pytest.skip("fits in a page")
    target = disk / "out"
    argv = [str(word).format(target, **inputs) for word in words]
    if old and name == "scan":
        # The first records leave no room in their page for that of another target.
        assert command(*argv)[0] == 0
        argv[-1] = str(SAMPLE)
        line = target.read_bytes().rstrip(b"}\n")
        target.write_bytes(line + b" " * ((-len(line) - 2) % 4096) + b"}\n")
    elif old:
        next(Path(word) for word in argv if word.startswith(str(target))).write_text("what was there before")
    fill(disk, free_pages)
    before = files_of(disk)
    status, _, said = command(*argv)
    assert status == 3 and str(target) in said[0]
    assert files_of(disk) == before


@LONG
@pytest.mark.parametrize("free_pages", (0, 1))
@pytest.mark.parametrize("old", (False, True), ids=("new", "old"))
def test_the_flight_recorder_on_a_full_disk(old: bool, free_pages: int, disk: Path, inputs: dict[str, str]) -> None:
    snapshot, boot = read(inputs["snapshot"]), "0f" * 4 + "-0f0f" * 3 + "-" + "0f" * 6
    directory = disk / "out"
    (directory / boot).mkdir(parents=True)
    if old:
        keep(snapshot, boot, str(directory))
    fill(disk, free_pages)
    before = files_of(disk)
    with pytest.raises(OSError, match="No space left"):
        keep(snapshot, boot, str(directory))
    left = files_of(disk)
    if not old and free_pages:
        # The table is written first and is useful alone.
        (table,) = left.keys() - before.keys()
        assert left.pop(table) == snapshot.table.to_bytes()
    assert left == before


@pytest.mark.parametrize(
    ("is_full", "end"), ((False, (0, "")), (True, (3, "drgn-unaccepted: stdout: No space left on device\n")))
)
@pytest.mark.parametrize(
    "words",
    ("summary", "ranges --format json", f"replay {SAMPLES / '6.12-fill.rec'}", "--help", "scan --help", "--version"),
)
def test_standard_output_that_takes_no_more(words: str, is_full: bool, end: tuple[int, str], snapshot: Path) -> None:
    """A full disk, and a reader that goes away before the first line, as ``| head`` does."""
    reader, writer = os.pipe()
    os.close(reader)
    target = [] if words.startswith("replay") else ["--snapshot", str(snapshot)]
    argv = [sys.executable, "-m", "drgn_unaccepted", *target, *words.split()]
    with Path("/dev/full").open("wb") if is_full else os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == end
