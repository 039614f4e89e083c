# SPDX-License-Identifier: LGPL-2.1-or-later
"""A full disk: one line and exit status 3, and files are whole, as before, or absent."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drgn_unaccepted.record.file import Recording
from drgn_unaccepted.record.keep import keep
from drgn_unaccepted.snapshot_file import read
from tests.fuzz import run
from tests.kernel.elf_dump import SAMPLES
from tests.samples_over_time import series, write_recording

pytestmark = pytest.mark.long

DUMP = SAMPLES / "6.12-fill" / "vmcore"


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
    "snapshot": (("-c", DUMP, "snapshot", "-o", "{}"), True),
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
    assert run.command("-c", DUMP, "snapshot", "-o", snapshot)[0] == 0
    assert run.command("scan", "--quiet", "-o", records, snapshot)[0] == 0
    return {"snapshot": str(snapshot), "records": str(records)}


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
        assert run.command(*argv)[0] == 0
    elif old:
        next(Path(word) for word in argv if word.startswith(str(target))).write_text("what was there before")
    if old and name == "scan":
        # Scan another target; the rest of the page has no room for its record.
        argv[-1] = str(DUMP)
        target.write_bytes(target.read_bytes() * (4096 // target.stat().st_size + 1))
        size = target.stat().st_size // 4096 * 4096
        lines = target.read_bytes()[:size].rpartition(b"\n")[0]
        target.write_bytes(lines[:-1] + b" " * (size - len(lines) - 1) + b"}\n")
    fill(disk, free_pages)
    before = files_of(disk)
    status, _, said = run.command(*argv)
    assert status == 3 and str(target) in said[0]
    left = files_of(disk)
    if name == "scan" and not old:
        # scan creates its file first, so that no other scan writes it.
        assert left.pop("out") == b""
    assert left == before


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


@pytest.mark.parametrize("taken", (0, 1, 5))
def test_a_recording_on_a_full_disk(taken: int, disk: Path) -> None:
    """Whole samples remain, or no file: the next recording has the same name."""
    path = disk / "recording"
    samples = [replace(each, torn=("x" * 2_000,) * number) for number, each in enumerate(series(taken + 20))]
    fill(disk, 2 * taken)
    with pytest.raises(OSError, match="No space"):
        write_recording(path, samples)
    if not taken:
        assert not path.exists()
        return
    recording = Recording(str(path))
    got = [sample.snapshot for sample in recording]
    assert recording.dropped is None and path.read_bytes().endswith(b"\n")
    assert got == samples[: len(got)] and got


@pytest.mark.parametrize("words", (("summary",), ("check",), ("ranges", "--format", "json")))
def test_standard_output_on_a_full_disk(words: tuple[str, ...], disk: Path, inputs: dict[str, str]) -> None:
    fill(disk, 0)
    with (disk / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "drgn_unaccepted", "--snapshot", inputs["snapshot"], *words],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1, (done.returncode, done.stderr)
