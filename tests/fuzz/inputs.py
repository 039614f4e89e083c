# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged files: snapshots, recordings, those of ``--table``, ``--vmcoreinfo`` and ``-s``, records for ``merge``."""

from __future__ import annotations

import json
import random
import struct
import tempfile
from functools import cache
from pathlib import Path

from tests.fuzz.case import NAMES, replaced, sample, truth
from tests.fuzz.files import check_recording, check_snapshot, damaged_recording, damaged_text, snapshot_text
from tests.fuzz.mutate import patches, vmcoreinfo
from tests.fuzz.run import ANSWERED, CHECK_STATUS, REFUSED, Outcome, command
from tests.kernel.elf_dump import SAMPLES, gnu_build_id, section_elf

KINDS = ("snapshot", "recording", "table", "vmcoreinfo", "symbols", "records")

#: Without the table; its kernel is that of 6.12-fill.
NAME = "6.12-fill-kdump"
DUMP = SAMPLES / NAME / "vmcore"


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
