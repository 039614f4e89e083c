# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unpack a compressed file into a file without a name, which is gone when this process ends."""

from __future__ import annotations

import os
import subprocess
from typing import BinaryIO, Callable, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.files import nameless, tmpdir
from drgn_unaccepted.targets.errors import Unavailable
from drgn_unaccepted.words import safe, size

#: What unpacks a file that begins so.
_PROGRAMS = {
    b"\x1f\x8b": "gzip -dc",
    b"\xfd7zXZ\0": f"xz -dc --memlimit-decompress={limits.XZ_MEMORY_BYTES}",
    b"\x28\xb5\x2f\xfd": "zstd -dcq",
    b"BZh": "bzip2 -dc",
    b"\x04\x22\x4d\x18": "lz4 -dc",
    b"\x02\x21\x4c\x18": "lz4 -dc",  # kernel images
    b"\x89LZO\0\r\n": "lzop -dc",
}
_STEP = 1 << 20


def unpacks(beginning: bytes) -> Optional[str]:
    """The program that unpacks a file with this beginning, and its options; None where it is not compressed."""
    return next((program for magic, program in _PROGRAMS.items() if beginning.startswith(magic)), None)


def start_program(program: str, file: BinaryIO, at: int, stderr: int) -> subprocess.Popen[bytes]:
    """Start a program that reads a file from offset ``at`` on. Unavailable: it is not here."""
    os.lseek(file.fileno(), at, os.SEEK_SET)
    argv = program.split()
    try:
        return subprocess.Popen(argv, stdin=file, stdout=subprocess.PIPE, stderr=stderr)
    except FileNotFoundError:
        raise Unavailable(f"compressed, and there is no program {argv[0]} here: unpack it elsewhere") from None


def unpack(file: BinaryIO, program: str, why_not: Callable[[bytes], Optional[str]]) -> BinaryIO:
    """What ``program`` makes of a whole file; it is at its beginning.

    :param why_not: tells of the first bytes why nobody wants the rest; None where it is wanted
    :raises Unavailable: it cannot be unpacked, or there is no room
    :raises OSError: the file without a name cannot be made or written
    """
    unpacked, done = nameless(), 0
    with start_program(program, file, 0, subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            while data := process.stdout.read(_STEP):
                why = None if done else why_not(data)
                if why is not None:
                    raise Unavailable(f"compressed; in it: {why}")
                if data.count(0) < len(data):
                    unpacked.write(data)
                else:
                    unpacked.seek(len(data), os.SEEK_CUR)
                done += len(data)
                disk = os.statvfs(tmpdir())
                if done > limits.UNPACKED_BYTES:
                    raise Unavailable(f"compressed, with more than {limits.UNPACKED_BYTES} bytes in it")
                if disk.f_bavail < disk.f_blocks // 20:
                    text = f"more than {size(done)} when unpacked, and {tmpdir()} has no room for it: set TMPDIR"
                    raise Unavailable(text)
            unpacked.truncate(done)
            words = process.stderr.read().decode(errors="replace").strip().split("\n")[0]
            if process.wait():
                raise Unavailable(f"compressed, and cannot be unpacked: {safe(words)}")
        finally:
            process.kill()
    unpacked.seek(0)
    return unpacked
