# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which targets a scan has: vmcores and snapshots, by name, in directories, or out of a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.errors import CommandError

#: A file of such a name is a manifest: one path a line, or one JSON object a line.
MANIFESTS = ("*.txt", "*.list", "*.jsonl")

#: In a directory, a file of such a name is a target whatever its content: a damaged dump must not go missing.
#: kdump's, those of Debian's kdump-tools (dump.202611221200, dump-incomplete), and either compressed afterwards.
_DUMP_NAME = re.compile(
    r"(.*\.vmcore | vmcore(\.flat)? | (vmcore|dump)(-incomplete | \.[0-9]+)) (\.(gz|bz2|xz|zst|lz4|lzo))?",
    re.VERBOSE | re.DOTALL,
)

#: What the files begin with that :func:`_is_target` knows by content, wherever they lie.
_KDUMP = (b"KDUMP   ", b"DISKDUMP", b"makedumpfile\0")
_SNAPSHOT = b'{"schema": "drgn-unaccepted-snapshot/'
_ELF, _ET_CORE = b"\x7fELF", 4

#: What ``scan --beside`` leaves.
BESIDE = ".unaccepted.json"

#: Keys of an entry of a manifest, with the option of the command line that each stands for.
_OPTIONS = {"symbols": "-s", "table": "--table", "vmcoreinfo": "--vmcoreinfo"}


class Target(NamedTuple):
    """One file to check."""

    #: Absolute.
    path: str
    #: The guest that it is of, where the manifest or ``--host`` tells.
    host: Optional[str]
    #: Further options of the command line, as ``-s vmlinux``.
    options: tuple[str, ...]
    #: ``st_size``, ``st_mtime_ns``; None where the file cannot be looked at.
    size: Optional[int]
    mtime_ns: Optional[int]

    @property
    def id(self) -> str:
        """Of this content at this place: a dump that was written anew is another target."""
        return hashlib.sha256(
            f"{self.path}\0{self.size}\0{self.mtime_ns}".encode(errors="surrogateescape")
        ).hexdigest()[:32]


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 0."""

    index: int
    count: int

    def has(self, target: Target) -> bool:
        """By the path alone, so that workers agree although each lists the archive at another moment."""
        return zlib.crc32(os.fsencode(target.path)) % self.count == self.index


def parse_shard(text: str) -> Shard:
    """``0/4`` to ``3/4``.

    :raises ValueError: it is none
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found:
        raise ValueError(f"{text}: not I/N, as 0/4")
    shard = Shard(int(found[1]), int(found[2]))
    if shard.index >= shard.count:
        raise ValueError(f"{text}: shards are counted from 0, so that the last of {shard.count} is {shard.count - 1}")
    return shard


def shard_of_environment(environment: Mapping[str, str]) -> Shard:
    """The shard that a Slurm job array or a Kubernetes Indexed Job gives to this process; 0/1 outside of them.

    :raises CommandError: only half of it is said
    """
    try:
        if "SLURM_ARRAY_TASK_ID" in environment:
            # The ids of an array may begin anywhere and have steps (--array=1-9:2).
            first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
            step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
            index = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step
            return parse_shard(f"{index}/{environment['SLURM_ARRAY_TASK_COUNT']}")
        if "JOB_COMPLETION_INDEX" in environment:
            return parse_shard(f"{environment['JOB_COMPLETION_INDEX']}/{environment['JOB_COMPLETION_COUNT']}")
    except KeyError as error:
        raise CommandError(
            f"{error.args[0]} is not set, so that the number of shards is not known: --shard I/N"
        ) from None
    except (ValueError, ZeroDivisionError) as error:
        raise CommandError(f"the shard that the environment gives: {error}; --shard I/N says it") from None
    return Shard(0, 1)


def find_targets(
    places: Iterable[str],
    host: Optional[re.Pattern[str]] = None,
    options: Sequence[str] = (),
    pass_over: Callable[[Path], None] = lambda path: None,
) -> Iterator[Target]:
    """The targets that the places name, each once. What is named is a target even where there is no such file.

    :param host: its first group, found in a path, is the guest's name
    :param options: of the command line, for every target
    :param pass_over: is shown each file in a directory that is no target
    :raises CommandError: a directory or a manifest cannot be read
    """
    seen: set[str] = set()
    for path, entry in _entries(places, pass_over):
        if path in seen:
            continue
        if len(seen) == limits.FLEET_TARGETS:
            raise CommandError(f"more than {limits.FLEET_TARGETS} targets")
        seen.add(path)
        yield _target(path, entry, host, tuple(options))


def _target(path: str, entry: Mapping[str, str], host: Optional[re.Pattern[str]], options: tuple[str, ...]) -> Target:
    found = host.search(path) if host is not None else None
    name = entry.get("host") or (found.group(1) if found else None)
    for key, option in _OPTIONS.items():
        if key in entry:
            options += (option, entry[key])
    try:
        status = Path(path).stat()
    except OSError:
        return Target(path, name, options, None, None)
    return Target(path, name, options, status.st_size, status.st_mtime_ns)


def _entries(places: Iterable[str], pass_over: Callable[[Path], None]) -> Iterator[tuple[str, Mapping[str, str]]]:
    for place in places:
        path = Path(place)
        if place == "-":
            yield from _manifest("standard input", sys.stdin.buffer, Path.cwd())
        elif path.is_dir():
            for file in _walk(path, pass_over):
                yield str(file), {}
        elif path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in MANIFESTS):
            try:
                with path.open("rb") as lines:
                    yield from _manifest(place, lines, path.parent)
            except OSError as error:
                raise CommandError(f"{place}: {error.strerror}") from None
        else:
            yield str(_absolute(path)), {}


def _walk(top: Path, pass_over: Callable[[Path], None]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise CommandError(f"{error.filename}: {error.strerror}")

    for directory, names, files in os.walk(_absolute(top), onerror=fail):
        names.sort()
        for name in sorted(files):
            path = Path(directory, name)
            if _is_target(path):
                yield path
            elif not path.name.endswith(BESIDE):
                pass_over(path)


def _absolute(path: Path) -> Path:
    """Without "..", so that a dump by another way is the same target. What is before it may be a link: resolved."""
    parts = path.absolute().parts
    if ".." not in parts:
        return Path(*parts)
    rest = len(parts) - parts[::-1].index("..")
    return Path(*parts[:rest]).resolve().joinpath(*parts[rest:])


def _is_target(path: Path) -> bool:
    if _DUMP_NAME.fullmatch(path.name):
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            start = file.read(64)
    except PermissionError:
        # It may be one, and its record says why nobody knows.
        return True
    except OSError:
        # What is not there, and has no dump's name.
        return False
    if start.startswith(_ELF):
        return int.from_bytes(start[16:18], "little") == _ET_CORE
    return start.startswith((*_KDUMP, _SNAPSHOT))


def _manifest(name: str, lines: Iterable[bytes], directory: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Its entries; relative paths are relative to the manifest."""
    for number, raw in enumerate(lines, 1):
        line = os.fsdecode(raw).strip()
        if not line or line.startswith("#"):
            continue
        entry = _json_entry(f"{name}:{number}", line) if line.startswith("{") else {"path": line}
        if not all(map(_can_be_a_name, entry.values())):
            raise CommandError(f"{name}:{number}: a character that no file name can have")
        yield str(_absolute(directory / entry["path"])), entry


def _can_be_a_name(text: str) -> bool:
    """Whether the kernel takes it for a path or an argument."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _json_entry(where: str, line: str) -> dict[str, str]:
    known = ("path", "host", *_OPTIONS)
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{where}: not JSON: {error}") from None
    if "path" not in entry or not all(key in known and isinstance(value, str) for key, value in entry.items()):
        raise CommandError(f"{where}: an entry has path, and may have {', '.join(known[1:])}, all of them text")
    return dict(entry)
