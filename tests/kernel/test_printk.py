# SPDX-License-Identifier: LGPL-2.1-or-later
"""The printk ring buffer, against a writer of it and against what guests' dmesg said."""

from __future__ import annotations

import random
import struct
from functools import partial

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.printk import read_log_lines

from .allocator_program import said
from .firmware_program import FirmwareProgram
from .printk_writer import COMMITTED, RESERVED, PrintkWriter


def lines_of(writer: PrintkWriter) -> list[str]:
    program = FirmwareProgram()
    writer.install(program)
    return read_log_lines(program.prog)


def test_lines_oldest_first() -> None:
    writer = PrintkWriter()
    assert lines_of(writer) == []
    for text in (b"one", b"two\nand a half", "dr\u00fci".encode(), b"\xff\x1b[31m"):
        writer.write(text)
    assert lines_of(writer) == ["one", "two", "and a half", "dr\u00fci", "\ufffd\x1b[31m"]


@pytest.mark.parametrize("wrap_exact_fit", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_many_laps(seed: int, wrap_exact_fit: bool) -> None:
    rng = random.Random(seed)
    writer = PrintkWriter(wrap_exact_fit=wrap_exact_fit)
    for number in range(rng.randrange(100, 400)):
        writer.write(b"%d:" % number + b"x" * rng.randrange(0, 120))
    assert len(writer.lines) > 5
    assert lines_of(writer) == writer.lines


def test_what_is_no_whole_record_of_the_kernel_is_left_out() -> None:
    """Records without text, being written, of user space (/dev/kmsg: facility 1 or more), and overwritten meanwhile."""
    writer = PrintkWriter()
    writer.write(b"overwritten")
    writer.write(b"")
    writer.write(b"not finished", state=RESERVED)
    writer.write(b"efi: mem00: [Conventional Memory]", facility=1)
    writer.write(b"Kernel panic - not syncing: no", facility=3)
    writer.write(b"a", state=COMMITTED)
    struct.pack_into("<Q", writer.text, 0, 0x1234)
    assert lines_of(writer) == ["a"]


@pytest.mark.parametrize(
    ("count_bits", "size_bits", "reason"),
    [
        (0, 10, "descriptors"),
        (31, 10, "descriptors"),
        (0xFFFFFFFF, 10, "descriptors"),
        (5, 0, "bytes of text"),
        (5, 40, "bytes of text"),
        (5, 0xFFFFFFFF, "bytes of text"),
    ],
)
def test_hostile_sizes(count_bits: int, size_bits: int, reason: str) -> None:
    writer = PrintkWriter()
    program = FirmwareProgram()
    writer.count_bits, writer.size_bits = count_bits, size_bits
    writer.install(program)
    assert reason in said(lambda: read_log_lines(program.prog))
    assert program.bytes_read < 100_000


@pytest.mark.parametrize(
    ("limit", "size", "reason"),
    [
        ("LOG_BYTES", "size_bits", "prb: 2^11 bytes of text: not between 16 and 1024"),
        ("LOG_RECORDS", "count_bits", "prb: 2^11 descriptors: not between 2 and 1024"),
    ],
)
def test_as_large_a_ring_as_is_read(limit: str, size: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, limit, 1024)
    for bits, expected in ((10, ["a"]), (11, reason)):
        writer = PrintkWriter(**{size: bits})
        writer.write(b"a")
        assert said(partial(lines_of, writer)) == expected


def test_more_records_than_descriptors() -> None:
    writer = PrintkWriter()
    writer.write(b"a")
    writer.tail_id -= 1000
    assert "in a ring of 32" in said(lambda: lines_of(writer))


def test_random_descriptors_do_no_harm() -> None:
    rng = random.Random(1)
    for _ in range(50):
        writer = PrintkWriter()
        for number in range(40):
            writer.write(b"%d" % number)
        writer.descs = [
            (identifier, state, rng.getrandbits(64), rng.getrandbits(64))
            for identifier, state, _begin, _end in writer.descs
        ]
        writer.lengths = [rng.getrandbits(16) for _ in writer.lengths]
        for line in lines_of(writer):
            assert len(line) <= writer.size


def test_overlapping_records_do_not_multiply() -> None:
    writer = PrintkWriter(count_bits=12, size_bits=16)
    for _ in range(4000):
        writer.write(b"x")
    # Each record starts 8 bytes after the one before it and claims all that follows.
    for index in range(4000):
        struct.pack_into("<Q", writer.text, index * 8, writer.descs[index][0])
        writer.descs[index] = (writer.descs[index][0], 2, index * 8, writer.size)
        writer.lengths[index] = 0xFFFF
    assert "records of more than 65536 bytes" in said(lambda: lines_of(writer))
