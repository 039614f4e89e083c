# SPDX-License-Identifier: LGPL-2.1-or-later
"""The targets of a scan: vmcores and snapshots, named, found in directories or listed in a manifest; and shards."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Callable, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.errors import CommandError, concerning, one_line
from drgn_unaccepted.files import TABLE, open_input

#: In a directory, a file with such a name is a target whatever its content: a damaged dump must not go missing.
#: Names of kdump and of Debian's kdump-tools (dump.202611221200, dump-incomplete), perhaps compressed afterwards.
_DUMP_NAME = re.compile(
    r"(.*\.vmcore | vmcore(\.flat)? | (vmcore|dump)(-incomplete | \.[0-9]+)) (\.(gz|bz2|xz|zst|lz4|lzo))?",
    re.VERBOSE | re.DOTALL,
)

#: The first bytes of the files that :func:`_is_target` recognizes by content.
_MAGIC = (b"KDUMP   ", b"DISKDUMP", b"makedumpfile\0", b'{"schema": "drgn-unaccepted-snapshot/')

BESIDE = ".unaccepted.json"  #: The suffix of the files that ``scan --beside`` writes.

#: Keys of a manifest's entry, with the option of the command line that each stands for; all of them name files.
_OPTIONS = {"symbols": "-s", "table": "--table", "vmcoreinfo": "--vmcoreinfo"}
_KEYS = ("path", "host", *_OPTIONS)

Shard = tuple[int, int]  #: ``(index, parts)``: part ``index`` of ``parts``, counted from 0.


class Target(NamedTuple):
    path: str  #: Absolute.
    host: Optional[str]  #: The guest, if the manifest or ``--host`` tells it.
    options: tuple[str, ...]  #: Further options of the command line, for example ``-s vmlinux``.
    size: Optional[int]  #: ``st_size``; None if stat(2) fails.
    id: str  #: Identifies this content at this place: a dump that was written anew is another target.


def in_shard(path: str, shard: Shard) -> bool:
    """Depends on the path alone, so that workers agree even if each lists the archive at another moment."""
    index, parts = shard
    return zlib.crc32(os.fsencode(path)) % parts == index


def parse_shard(text: str) -> Shard:
    """The value of ``--shard``, for example ``0/4``. ArgumentTypeError: it is none."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text}: not I/N with I from 0 to N-1, for example 0/4")
    return int(found[1]), int(found[2])


def shard_of_environment(environment: Mapping[str, str]) -> Shard:
    """That of a Slurm job array or a Kubernetes Indexed Job, else 0/1. CommandError: incomplete or contradictory."""
    try:
        if "SLURM_ARRAY_TASK_ID" in environment:
            # The IDs of an array can start anywhere and have steps (--array=1-9:2).
            first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
            step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
            index = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step
            return parse_shard(f"{index}/{environment['SLURM_ARRAY_TASK_COUNT']}")
        if "JOB_COMPLETION_INDEX" in environment:
            return parse_shard(f"{environment['JOB_COMPLETION_INDEX']}/{environment['JOB_COMPLETION_COUNT']}")
    except KeyError as error:
        raise CommandError(f"{error.args[0]} is not set: give the number of shards with --shard I/N") from None
    except (ValueError, ZeroDivisionError, argparse.ArgumentTypeError) as error:
        raise CommandError(f"the shard from the environment: {error}; give it with --shard I/N") from None
    return 0, 1


def find_targets(
    places: Iterable[str],
    host: Optional[re.Pattern[str]] = None,
    options: Sequence[str] = (),
    skip: Callable[[Path], None] = lambda path: None,
) -> Iterator[Target]:
    """The targets at these places, each once. A path that is named is a target even if no such file exists.

    :param host: its first group, found in a path, is the guest's name
    :param options: options of the command line for every target
    :param skip: is called with each file in a directory that is no target
    :raises CommandError: a directory or a manifest cannot be read
    """
    # The process of a target works in the root directory.
    common = [
        str(Path(word).absolute()) if before in _OPTIONS.values() else word
        for before, word in zip(("", *options), options)
    ]
    seen: set[str] = set()
    for directory, entry in _entries(places, skip):
        path = str(_absolute(directory / entry["path"]))
        if path in seen:
            continue
        if len(seen) == limits.FLEET_TARGETS:
            raise CommandError(f"more than {limits.FLEET_TARGETS} targets")
        seen.add(path)
        found = host.search(path) if host is not None else None
        name = entry.get("host") or (found.group(1) if found else None)
        files = {_OPTIONS[key]: str(directory.absolute() / entry[key]) for key in entry if key in _OPTIONS}
        size, mtime_ns = None, None
        with suppress(OSError):
            status = Path(path).stat()
            size, mtime_ns = status.st_size, status.st_mtime_ns
        key = f"{path}\0{size}\0{mtime_ns}".encode(errors="surrogateescape")
        yield Target(path, name, (*common, *chain(*files.items())), size, hashlib.sha256(key).hexdigest()[:32])


def _entries(places: Iterable[str], skip: Callable[[Path], None]) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """Entries of manifests, or their like, each with the directory that its files are relative to."""
    for place in places:
        path = Path(place)
        if place == "-" or (path.is_file() and path.suffix in (".txt", ".list", ".jsonl")):
            with concerning(place), open_input(place) as lines:
                yield from _manifest(place, bounded_lines(lines), path.parent)
        elif path.is_dir():
            yield from ((path, {"path": str(file)}) for file in _walk(path, skip))
        else:
            yield Path(), {"path": place}


def bounded_lines(content: BinaryIO) -> Iterator[bytes]:
    """The lines; of a longer one the first :data:`limits.FLEET_LINE_BYTES` bytes and one more."""
    while line := content.readline(limits.FLEET_LINE_BYTES + 1):
        yield line
        while len(line) > limits.FLEET_LINE_BYTES and not line.endswith(b"\n"):
            line = content.readline(limits.FLEET_LINE_BYTES + 1)


def _walk(top: Path, skip: Callable[[Path], None]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise CommandError(one_line(error, str(error.filename)))

    for directory, names, files in os.walk(_absolute(top), onerror=fail):
        names.sort()
        for path in (Path(directory, name) for name in sorted(files)):
            if not path.name.endswith(TABLE) and _is_target(path):
                yield path
            elif not path.name.endswith((BESIDE, TABLE)):
                skip(path)


def _absolute(path: Path) -> Path:
    """Without "..", so that each dump has one path. A link before ".." is resolved, as the kernel does."""
    parts = path.absolute().parts
    rest = len(parts) - parts[::-1].index("..") if ".." in parts else 0
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
        # Perhaps a dump: its record then says why there is no answer.
        return True
    except OSError:
        return False
    # An ELF file with ET_CORE as its e_type.
    return start.startswith(_MAGIC) or (start.startswith(b"\x7fELF") and start[16:18] == b"\4\0")


def _manifest(name: str, lines: Iterable[bytes], directory: Path) -> Iterator[tuple[Path, Mapping[str, str]]]:
    for number, raw in enumerate(lines, 1):
        line = os.fsdecode(raw).strip()
        if not line or line.startswith("#"):
            continue
        try:
            entry = json.loads(line) if line.startswith("{") else {"path": line}
            is_text = all(isinstance(text, str) and (text or key == "host") for key, text in entry.items())
            if "path" not in entry or not is_text or not entry.keys() <= {*_KEYS}:
                raise ValueError(f"an entry has path, and can have {', '.join(_KEYS[1:])}: texts, not empty")
            if b"\0" in os.fsencode("".join(entry.values())):
                raise ValueError("a null character")
        except (ValueError, RecursionError) as error:
            json_ = "not JSON: " if isinstance(error, (json.JSONDecodeError, RecursionError)) else ""
            raise CommandError(f"{name}:{number}: {json_}{error}") from None
        yield directory, entry
