# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged files: snapshots, recordings, those of ``--table``, ``--vmcoreinfo`` and ``-s``, records for ``merge``."""

from __future__ import annotations

import base64
import json
import random
import struct
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Union

from drgn_unaccepted.cli import main
from drgn_unaccepted.record.file import Writer
from tests.fuzz.case import NAMES, replaced, sample, truth
from tests.fuzz.mutate import patches, vmcoreinfo
from tests.fuzz.run import ANSWERED, CHECK_STATUS, REFUSED, Outcome, ask_everything, command
from tests.samples_over_time import series
from tests.targets.elf_dump import SAMPLES, gnu_build_id, section_elf

KINDS = ("snapshot", "recording", "table", "vmcoreinfo", "symbols", "records")

NAME = "6.12-fill-kdump"  #: Without the table; its kernel is that of 6.12-fill.
DUMP = SAMPLES / NAME / "vmcore"

Place = tuple[Union[str, int], ...]

NUMBERS = (
    *(0, 1, -1, 2, 3, 4095, 1 << 21, 1 << 31, 1 << 32, 1 << 52, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 100),
    10**5000,
)
TEXTS = ("", "x", "present", "absent", "not-captured", "file", "live", "\x1b[2J", "\udc80", "a" * 100_000, "\n", "1e9")
OTHERS = (None, True, False, [], {}, [[]], {"a": 1}, 1.0, 1e308, -0.0)

BOMB = base64.b64encode(zlib.compress(bytes(64 << 20))).decode()  #: 64 MiB and 1 GiB of zeros.


@cache
def big_bomb() -> str:
    squeeze = zlib.compressobj()
    piece = bytes(16 << 20)
    return base64.b64encode(b"".join(squeeze.compress(piece) for _ in range(64)) + squeeze.flush()).decode()


@cache
def snapshot_text(name: str) -> str:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "snapshot"
        assert main(["-c", str(SAMPLES / name / "vmcore"), "snapshot", "-o", str(path)]) == 0
        return path.read_text()


@cache
def recording_lines() -> tuple[str, ...]:
    """A recording of a guest that accepts memory."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "recording"
        with Writer(str(path), 1.0) as writer:
            for number, snapshot in enumerate(series(8)):
                writer.add(snapshot, float(number), 0.01)
        return tuple(path.read_text().splitlines())


def damaged_recording(rng: random.Random) -> bytes:
    lines = list(recording_lines())
    number = rng.randrange(len(lines))
    if rng.randrange(8) == 0:
        rng.shuffle(lines)
        lines *= rng.choice((1, 2))
    damaged = [line.encode() for line in lines]
    damaged[number] = damaged_text(rng, lines[number]).replace(b"\n", rng.choice((b" ", b" ", b"\n")))
    return b"\n".join(damaged) + rng.choice((b"\n", b"\n", b""))


def damaged_text(rng: random.Random, text: str) -> bytes:
    """JSON with other values, or no JSON any more."""
    if rng.randrange(4):
        value = json.loads(text)
        for _ in range(rng.choice((1, 1, 2, 3))):
            value = _change(rng, value)
        made = json.dumps(value)
        # Python writes no integer that it would not read.
        return made.replace('"HUGE"', "1" + "0" * 5000).encode()
    return _change_text(rng, text)


def _change(rng: random.Random, value: Any) -> Any:
    place = rng.choice(list(_places(value)))
    if not place:
        return _other(rng, value)
    holder = value
    for step in place[:-1]:
        holder = holder[step]
    last = place[-1]
    way = rng.randrange(8)
    if way == 0 and isinstance(holder, dict):
        del holder[last]
    elif way == 0:
        holder.pop(last)
    elif way == 1 and isinstance(holder, dict):
        holder[rng.choice(("extra", "schema", str(last) + "x", ""))] = _other(rng, holder[last])
    elif way == 1:
        holder.extend(holder[-1:] * rng.choice((1, 10, 20_000)))
    elif way == 2:
        other = rng.choice(list(_places(value)))
        found: Any = value
        for step in other:
            found = found[step]
        holder[last] = json.loads(json.dumps(found))
    else:
        holder[last] = _other(rng, holder[last])
    return value


def _places(value: Any, before: Place = ()) -> Iterator[Place]:
    yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, (key, item) in enumerate(items):
        if step < 50:
            yield from _places(item, (*before, key))


def _other(rng: random.Random, value: Any) -> Any:
    if type(value) is int and rng.randrange(3):
        number = rng.choice((*NUMBERS, value + 1, value - 1, value << 1, -value, value ^ 1 << rng.randrange(64)))
        return number if abs(number) < 10**4000 else "HUGE"
    if isinstance(value, str) and len(value) > 20 and rng.randrange(2):
        return _other_packed(rng, value)
    return rng.choice((*NUMBERS[:-1], "HUGE", *TEXTS, *OTHERS, BOMB))


def _other_packed(rng: random.Random, value: str) -> str:
    at, length = rng.randrange(len(value)), rng.choice((0, 1, 7, 8, 56, 584, 4096))
    wrong = value[:at] + rng.choice("A/+=!\x00é") + value[at + 1 :]
    packed, bare = zlib.compress(rng.randbytes(length)), rng.randbytes(40)
    return rng.choice((value[:at], wrong, BOMB, big_bomb(), *(base64.b64encode(x).decode() for x in (packed, bare))))


def _change_text(rng: random.Random, text: str) -> bytes:
    data = text.encode()
    at = rng.randrange(len(data))
    return rng.choice(
        (
            lambda: data[:at],
            lambda: data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at + 8 :],
            lambda: data[:at] + b"\xff\xfe" + data[at:],
            lambda: b"\xef\xbb\xbf" + data,
            lambda: data.replace(b":", rng.choice((b": NaN, ", b": -Infinity,", b"::", b":1e999,")), 1),
            lambda: data.replace(b'"missing"', b'"torn": [], "missing"', 1),
            lambda: data.replace(b"/1", rng.choice((b"/2", b"/0", b"", b"/1\\u0000", b"/" + b"1" * 100_000)), 1),
            lambda: b"[" * rng.choice((10, 1000, 1_000_000)) + data,
            lambda: data.replace(b"[]", b"[" + b"[]," * 3_000_000 + b"[]]", 1),
            lambda: data.replace(b"null", b'"' + b"\\u0041\\ud83d\\ude00" * 2_000_000 + b'"', 1),
            lambda: data.replace(b'": "', b'": "' + b"A" * 60_000_000, 1),
            lambda: b"",
            lambda: b"\0" * 1000,
            lambda: b"null",
            lambda: b"7" * 100_000,
        )
    )()


# The runs


def check_snapshot(data: bytes, directory: Path) -> Outcome:
    path = directory / "snapshot"
    path.write_bytes(data)
    status, _, said = command("--snapshot", path, "header")
    if status == 3 and str(path) in said[0]:
        # The file was refused, and so it is for every other question.
        assert command("--snapshot", path, "check")[0] == 3
        return Outcome(REFUSED, said[0])
    ask_everything(path)
    return Outcome(ANSWERED, "")


def check_recording(data: bytes, directory: Path) -> Outcome:
    path = directory / "recording"
    path.write_bytes(data)
    for options in ((), ("--format", "json"), ("--source", "page-lists")):
        status, out, said = command("replay", path, *options, notes=1)
        for line in out.splitlines() if "json" in options else ():
            json.loads(line)
    return Outcome(REFUSED, said[0]) if status == 3 else Outcome(ANSWERED, "")


# All kinds


def damaged(rng: random.Random, kind: str) -> bytes:
    made = {"table": _table, "vmcoreinfo": _vmcoreinfo, "symbols": _symbols, "records": _records}
    made |= {
        "snapshot": lambda rng: damaged_text(rng, snapshot_text(rng.choice(NAMES))),
        "recording": damaged_recording,
    }
    return made[kind](rng)


def _bytes(rng: random.Random, data: bytes, fields: list[tuple[int, int]]) -> bytes:
    made = bytearray(data)
    for at, text in patches(rng, data, fields):
        made[at : at + len(text) // 2] = bytes.fromhex(text)
    return bytes(made) if rng.randrange(8) else bytes(made[: rng.randrange(len(made) + 1)])


def _table(rng: random.Random) -> bytes:
    """``struct efi_unaccepted_memory`` with some bits, or a snapshot file."""
    if rng.randrange(3) == 0:
        return damaged_text(rng, snapshot_text("6.12-fill"))
    bitmap = rng.choice((rng.randbytes(95), bytes(95), rng.randbytes(1 << 17), b"\xff" * 4096))
    header = struct.pack("<IIQQ", 1, 2 << 20, 4 << 30, len(bitmap))
    return _bytes(rng, header + bitmap, [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8)])


def _vmcoreinfo(rng: random.Random) -> bytes:
    return replaced(sample(NAME).vmcoreinfo, vmcoreinfo(rng, NAME).vmcoreinfo) * rng.choice((1, 1, 1, 40))


@cache
def _vmlinux() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        contents = {".notes": gnu_build_id(NAME), ".BTF": b"\x9f\xeb\x01\0" + bytes(60), ".symtab": bytes(240)}
        return section_elf(Path(directory) / "vmlinux", contents).read_bytes()


def _symbols(rng: random.Random) -> bytes:
    data = _vmlinux()
    (headers,) = struct.unpack_from("<Q", data, 40)
    fields = [(at, 2) for at in range(16, 64, 2)] + [(40, 8)]
    fields += [(at, 8) for at in range(headers, len(data), 8)] + [(at, 4) for at in range(64, headers, 4)]
    return _bytes(rng, data, fields)


@cache
def _record_lines() -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as directory:
        target, out = Path(directory) / "snapshot", Path(directory) / "records"
        target.write_text(snapshot_text("6.12-fill"))
        assert command("scan", "--quiet", "-o", out, target, Path(directory) / "gone")[0] == 3
        return tuple(out.read_text().splitlines())


def _records(rng: random.Random) -> bytes:
    lines = [line.encode() for line in _record_lines()]
    number = rng.randrange(len(lines))
    lines[number] = damaged_text(rng, _record_lines()[number]).replace(b"\n", b" ")
    return b"\n".join(lines * rng.choice((1, 1, 2))) + rng.choice((b"\n", b"\n", b""))


def check(kind: str, data: bytes, directory: Path) -> Outcome:
    if kind in ("snapshot", "recording"):
        return (check_snapshot if kind == "snapshot" else check_recording)(data, directory)
    path = directory / kind
    path.write_bytes(data)
    said: list[str] = []
    if kind == "records":
        for format_ in ("text", "json", "csv"):
            status, out, said = command("merge", path, "--format", format_, notes=99)
            if format_ == "json" and status == 0:
                json.loads(out)
        return Outcome(REFUSED, said[0]) if status == 3 else Outcome(ANSWERED, "")
    options = {"table": ("--table", f"{path}@{truth(NAME)['table_address']:#x}"), "vmcoreinfo": ("--vmcoreinfo", path)}
    given = options.get(kind, ("-s", path))
    if kind == "table" and data[:1] == b"{":
        given = ("--table", path)
    for question in (("header",), ("ranges",), ("map",), ("check",)):
        status, _, said = command("-c", DUMP, *given, *question, fails=CHECK_STATUS if "check" in question else (0, 3))
    return Outcome(REFUSED, said[0]) if status == 3 and said else Outcome(ANSWERED, "")
