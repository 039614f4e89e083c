# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which targets a scan has, and which shard of them is whose."""

from __future__ import annotations

import argparse
import errno
import os
import re
from pathlib import Path

import pytest

from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.fleet.targets import Shard, find_targets, parse_shard, shard_of_environment
from tests.fleet.tools import FILL, SAMPLES


def paths(*places: object) -> list[str]:
    return [target.path for target in find_targets(map(str, places))]


def test_a_directory_s_dumps_and_nothing_else_each_once() -> None:
    """README.md and truth.json lie beside the dumps."""
    assert sorted(paths(SAMPLES, FILL, FILL.parent)) == sorted(str(path) for path in SAMPLES.glob("*/vmcore"))


def test_a_directory_s_targets_by_content(tmp_path: Path) -> None:
    (tmp_path / "elf").write_bytes(b"\x7fELF" + bytes(12) + b"\x04\x00" + bytes(100))
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF" + bytes(12) + b"\x02\x00" + bytes(100))
    (tmp_path / "compressed").write_bytes(b"KDUMP   " + bytes(100))
    (tmp_path / "flat").write_bytes(b"makedumpfile\0\0\0\0" + bytes(100))
    (tmp_path / "snapshot").write_text('{"schema": "drgn-unaccepted-snapshot/1", "snapshot": {}}')
    (tmp_path / "other.json").write_text('{"schema": "drgn-unaccepted/1"}')
    (tmp_path / "gone.vmcore").symlink_to("nowhere")
    names = [Path(path).name for path in paths(tmp_path)]
    assert names == ["compressed", "elf", "flat", "gone.vmcore", "snapshot"]


#: Names of Debian's kdump-tools and of makedumpfile -F, and dumps compressed afterwards.
DUMPS = [
    "dump.202611221200",
    "dump-incomplete",
    "vmcore.202611221200",
    "vmcore-incomplete",
    "vmcore.flat",
    "guest-7.vmcore",
    "vmcore.gz",
    "vmcore.zst",
    "dump.202611221200.xz",
]
NO_DUMPS = [
    "dmesg.202611221200",
    "vmcore-dmesg.txt",
    "vmcore-dmesg-incomplete.txt",
    "vmcoreinfo",
    "dump.sh",
    "kexec_cmd",
]


def test_damaged_dumps_have_a_dump_s_name_and_skipped_files_are_shown(tmp_path: Path) -> None:
    for name in (*DUMPS, *NO_DUMPS, "dump.202611221200.unaccepted.json", "vmcore.unaccepted.json"):
        (tmp_path / name).write_bytes(bytes(4096))
    skipped: list[Path] = []
    targets = [Path(target.path).name for target in find_targets([str(tmp_path)], skip=skipped.append)]
    assert sorted(targets) == sorted(DUMPS)
    # The records that scan itself left there are neither.
    assert sorted(path.name for path in skipped) == sorted(NO_DUMPS)


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


def test_a_list_of_paths_is_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "all.list").write_text("# dumps of March\n\n a/vmcore \n/var/crash/b/vmcore\n../c\n")
    wanted = [f"{tmp_path}/a/vmcore", "/var/crash/b/vmcore", f"{tmp_path.parent}/c"]
    assert paths(tmp_path / "all.list") == wanted


def test_a_manifest_names_hosts_symbols_and_tables(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(
        '{"path": "a", "host": "guest-a", "symbols": "/usr/lib/debug/vmlinux", "table": "table.bin@0x7d624018"}\n'
        '{"path": "b"}\n'
    )
    first, second = find_targets([str(manifest)], options=("-s", "common"))
    assert (first.host, second.host) == ("guest-a", None)
    assert first.options == ("-s", "common", "-s", "/usr/lib/debug/vmlinux", "--table", "table.bin@0x7d624018")
    assert second.options == ("-s", "common")
    # A file that is named is a target even where it does not exist.
    assert (first.path, first.size, first.mtime_ns) == (str(tmp_path / "a"), None, None)


BAD = ['{"path": 1}', '{"host": "a"}', '{"path": "a", "shell": "rm"}', "{", "{}", r'{"path": "\u0000"}']


@pytest.mark.parametrize("line", [*BAD, r'{"path": "\ud800"}'])
def test_a_manifest_that_is_wrong_says_where(line: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(f'{{"path": "a"}}\n{line}\n')
    with pytest.raises(CommandError, match=r"m\.jsonl:2: "):
        list(find_targets([str(tmp_path / "m.jsonl")]))


def test_hosts_from_paths() -> None:
    (target,) = find_targets(["/crash/guest-7/2026-11-01/vmcore"], re.compile("/crash/([^/]+)/"))
    assert target.host == "guest-7"


def test_a_dump_that_was_written_anew_is_another_target(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    ids = set()
    for content in (b"a", b"bb"):
        path.write_bytes(content)
        ids |= {target.id for target in find_targets([str(path)])}
    assert len(ids) == 2


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_shards_are_everything_and_nothing_twice(count: int) -> None:
    """A target's shard depends on its path alone: workers list the archive at different moments."""
    targets = list(find_targets(f"/crash/guest-{number}/vmcore" for number in range(500)))
    shards = [[target for target in targets if Shard(index, count).has(target)] for index in range(count)]
    assert sorted(target for shard in shards for target in shard) == sorted(targets)
    assert min(map(len, shards)) > 500 / count / 2
    assert all(Shard(0, count).has(next(find_targets([target.path]))) for target in shards[0])


@pytest.mark.parametrize("text", ["", "1", "4/4", "-1/4", "1/0", "a/b", "1/4/5", "0x1/4"])
def test_no_shard(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_shard(text)


def slurm(task: int, count: int, first: int, step: int = 1) -> dict[str, str]:
    """The environment of a task of an array (sbatch(1), OUTPUT ENVIRONMENT VARIABLES)."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP")
    return dict(zip(names, map(str, (task, count, first, step))))


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, Shard(0, 1)),
        # --array=0-3, --array=1-10, --array=1-9:2.
        (slurm(3, 4, 0), Shard(3, 4)),
        (slurm(10, 10, 1), Shard(9, 10)),
        (slurm(9, 5, 1, 2), Shard(4, 5)),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETION_COUNT": "8"}, Shard(2, 8)),
    ],
)
def test_the_shard_that_a_scheduler_gives(environment: dict[str, str], shard: Shard) -> None:
    assert shard_of_environment(environment) == shard


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_COUNT is not set"),
        ({"SLURM_ARRAY_TASK_ID": "2"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        # --array=0,5: two tasks, and no way to tell which is which.
        (slurm(5, 2, 0), "--shard I/N"),
    ],
)
def test_half_a_shard_is_not_taken_for_all(environment: dict[str, str], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        shard_of_environment(environment)
