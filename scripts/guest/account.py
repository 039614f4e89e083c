# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse the guest's console: the memory maps from the loader, and the ranges that the EFI stub accepted."""

from __future__ import annotations

import io
import re
import struct
import tarfile
from pathlib import Path

from .shell import LabError

_MAP = re.compile(r"lab-map-begin (0x\w+) (0x\w+) (0x\w+)\n(.*?)lab-map-end \1\n", re.DOTALL)
_DESCRIPTOR = re.compile(r"lab-map (0x\w+) (0x\w+) (0x\w+) (0x\w+)\n")
_STUB_ACCEPT = re.compile(r"lab-stub-accept: (0x\w+) (0x\w+)")


def loader_account(console: str) -> dict[str, object]:
    """Return the last map of GetMemoryMap(), the one at ExitBootServices(), and the ranges that the stub accepted."""
    text = console.replace("\r\n", "\n").replace("\r", "")
    maps = list(_MAP.finditer(text))
    if not maps:
        raise LabError("the loader printed no memory map")
    return {
        "final_map": _memory_map(maps[-1]),
        "stub_accepted": [
            {"start": int(match[1], 16), "end": int(match[2], 16)} for match in _STUB_ACCEPT.finditer(text)
        ],
    }


def _memory_map(match: re.Match[str]) -> dict[str, object]:
    descriptors = [
        {
            "type": int(line[1], 16),
            "phys_addr": int(line[2], 16),
            "num_pages": int(line[3], 16),
            "attribute": int(line[4], 16),
        }
        for line in _DESCRIPTOR.finditer(match[4])
    ]
    if len(descriptors) != int(match[2], 16):
        raise LabError(f"the loader announced {int(match[2], 16)} descriptors and printed {len(descriptors)}")
    return {"desc_size": int(match[3], 16), "descriptors": descriptors}


def unpack(serial: bytes, into: Path) -> None:
    """Unpack the archives that a guest without 9p wrote to its second serial port.

    The firmware wrote to it before. If the guest accepted memory meanwhile, the last of several archives counts.
    """
    start = serial.find(b"guest/\0")
    if start >= 0:
        with tarfile.open(fileobj=io.BytesIO(serial[start:]), ignore_zeros=True) as archive:
            for member in archive:
                # Files of /proc are read-only, so that only root could overwrite those of an earlier archive.
                member.mode |= 0o600
                archive.extract(member, into)


def noted_accepts(record: Path, out: Path) -> None:
    """Write what an unmodified kernel accepted (loader/record.S) like the lab's own kernels: START END (exclusive)."""
    data = record.read_bytes()
    calls = list(struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]))
    head = f"# calls {len(calls)} kept {len(calls)} bytes {sum(end - start for start, end in calls)}\n"
    out.write_text(head + "".join(f"{start:#x} {end:#x}\n" for start, end in calls))
