# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which targets a scan has, and which shard of them is whose."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Union

import pytest

from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.fleet.targets import find_targets, in_shard, shard_of_environment
from tests.fleet.tools import FILL, SAMPLES


def paths(*places: object) -> list[str]:
    return [target.path for target in find_targets(map(str, places))]


#: Names of Debian's kdump-tools and of makedumpfile -F, and dumps compressed afterwards: damaged ones are targets too.
DUMPS = """dump.202611221200 dump-incomplete vmcore.202611221200 vmcore-incomplete vmcore.flat guest-7.vmcore vmcore.gz
vmcore.zst dump.202611221200.xz""".split()
NO_DUMPS = "dmesg.202611221200 vmcore-dmesg.txt vmcore-dmesg-incomplete.txt vmcoreinfo dump.sh kexec_cmd".split()
#: Files by their first bytes, and whether they are targets.
FILES = {
    "elf": (b"\x7fELF" + bytes(12) + b"\x04\x00", True),
    "vmlinux": (b"\x7fELF" + bytes(12) + b"\x02\x00", False),
    "compressed": (b"KDUMP   ", True),
    "flat": (b"makedumpfile\0\0\0\0", True),
    "snapshot": (b'{"schema": "drgn-unaccepted-snapshot/1", "snapshot": {}}', True),
    "other.json": (b'{"schema": "drgn-unaccepted/1"}', False),
}


def test_what_is_a_target_in_a_directory(tmp_path: Path) -> None:
    """By name or content, each once. What is skipped is shown, but for the records that scan itself left there."""
    records = ("dump.202611221200.unaccepted.json", "vmcore.unaccepted.json", "vmcore.unaccepted-table")
    for name in (*DUMPS, *NO_DUMPS, *records):
        (tmp_path / name).write_bytes(bytes(4096))
    for name, (start, _) in FILES.items():
        (tmp_path / name).write_bytes(start + bytes(100))
    # What a crash kernel saved is a snapshot by content.
    (tmp_path / "vmcore.unaccepted-table").write_bytes(b'{"schema": "drgn-unaccepted-snapshot/1"}')
    (tmp_path / "gone.vmcore").symlink_to("nowhere")
    skipped: list[Path] = []
    targets = [Path(target.path).name for target in find_targets([str(tmp_path)], skip=skipped.append)]
    assert sorted(targets) == sorted([*DUMPS, "gone.vmcore", *(name for name, (_, wanted) in FILES.items() if wanted)])
    assert sorted(path.name for path in skipped) == sorted([*NO_DUMPS, "vmlinux", "other.json"])
    assert sorted(paths(SAMPLES, FILL, FILL.parent)) == sorted(str(path) for path in SAMPLES.glob("*/vmcore"))


def test_a_file_that_may_not_be_read_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "core-of-guest-7").write_bytes(b"KDUMP   ")
    # Root may read everything.
    monkeypatch.setattr(Path, "open", refuse)
    assert paths(tmp_path) == [str(tmp_path / "core-of-guest-7")]


def test_a_dump_by_another_way_is_the_same_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, work = tmp_path / "archive", tmp_path / "work"
    archive.mkdir()
    work.mkdir()
    (archive / "vmcore").write_bytes(b"KDUMP   ")
    (tmp_path / "all.list").write_text("work/../archive/vmcore\n")
    (tmp_path / "link").symlink_to(archive)
    monkeypatch.chdir(work)
    ways = ("../archive", "../archive/vmcore", str(archive), "../all.list", "../link/../archive/./vmcore")
    assert [paths(way) for way in ways] == [[str(archive / "vmcore")]] * len(ways)
    # ".." after a link leads where the kernel goes.
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "away").symlink_to(tmp_path / "far" / "away")
    assert paths("../away/../vmcore") == [str(tmp_path / "far" / "vmcore")]


def test_the_files_of_a_manifest_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the command line are relative to the working directory."""
    (tmp_path / "all.list").write_text("# dumps of March\n\n a/vmcore \n/var/crash/b/vmcore\n../c\n")
    wanted = [f"{tmp_path}/a/vmcore", "/var/crash/b/vmcore", f"{tmp_path.parent}/c"]
    assert paths(tmp_path / "all.list") == wanted
    (tmp_path / "m.jsonl").write_text(
        '{"path": "a", "host": "guest-a", "symbols": "vmlinux", "table": "table.bin@0x7d624018"}\n'
        '{"path": "b", "vmcoreinfo": "/var/b.txt"}\n'
    )
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    # The manifest's host goes before the one in the path.
    first, second = find_targets(["../m.jsonl"], re.compile("/([ab])$"), options=("-s", "common"))
    assert (first.host, second.host) == ("guest-a", "b")
    common = ("-s", f"{tmp_path}/work/common")
    options = [os.path.normpath(word) if "/" in word else word for word in first.options]
    assert options == [*common, "-s", f"{tmp_path}/vmlinux", "--table", f"{tmp_path}/table.bin@0x7d624018"]
    assert second.options == (*common, "--vmcoreinfo", "/var/b.txt")
    # A file that is named is a target even where it does not exist.
    assert (first.path, first.size) == (str(tmp_path / "a"), None)


BAD = ['{"path": 1}', '{"path": ""}', '{"host": "a"}', '{"path": "a", "shell": "rm"}', "{", r'{"path": "\u0000"}']


@pytest.mark.parametrize("line", [*BAD, '{"path": "a", "symbols": ""}', r'{"path": "\ud800"}'])
def test_a_manifest_that_is_wrong_says_where(line: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(f'{{"path": "a"}}\n{line}\n')
    with pytest.raises(CommandError, match=r"m\.jsonl:2: "):
        list(find_targets([str(tmp_path / "m.jsonl")]))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_shards_are_everything_and_nothing_twice(count: int) -> None:
    """A target's shard depends on its path alone: workers list the archive at different moments."""
    targets = [f"/crash/guest-{number}/vmcore" for number in range(500)]
    shards = [[target for target in targets if in_shard(target, (index, count))] for index in range(count)]
    assert sorted(target for shard in shards for target in shard) == sorted(targets)
    assert min(map(len, shards)) > 500 / count / 2


def slurm(task: int, count: int, first: int, step: int = 1) -> dict[str, str]:
    """The environment of a task of an array (sbatch(1), OUTPUT ENVIRONMENT VARIABLES)."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP")
    return dict(zip(names, map(str, (task, count, first, step))))


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, (0, 1)),
        # --array=0-3, --array=1-10, --array=1-9:2.
        (slurm(3, 4, 0), (3, 4)),
        (slurm(10, 10, 1), (9, 10)),
        (slurm(9, 5, 1, 2), (4, 5)),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETION_COUNT": "8"}, (2, 8)),
        # Half a shard is not taken for all.
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_COUNT is not set"),
        # --array=0,5: two tasks, and no way to tell which is which.
        (slurm(5, 2, 0), "--shard I/N"),
    ],
)
def test_the_shard_that_a_scheduler_gives(environment: dict[str, str], shard: Union[tuple[int, int], str]) -> None:
    try:
        assert shard_of_environment(environment) == shard
    except CommandError as error:
        assert isinstance(shard, str) and shard in str(error)
