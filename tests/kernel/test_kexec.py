# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where kexec would copy to."""

from __future__ import annotations

import struct
from typing import Optional

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.boot import read_kexec_segments
from drgn_unaccepted.kernel.errors import Unavailable

from .firmware_program import FirmwareProgram


def image(segments: list[tuple[int, int]], nr_segments: Optional[int] = None) -> bytes:
    """struct kimage: nr_segments, then segment[] of buf, bufsz, mem, memsz."""
    data = bytes(56) + struct.pack("<Q", len(segments) if nr_segments is None else nr_segments)
    data += b"".join(struct.pack("<QQQQ", 0xDEAD, 1, start, size) for start, size in segments)
    return data.ljust(1024, b"\0")


def loaded(kexec: Optional[bytes], crash: Optional[bytes]) -> FirmwareProgram:
    program = FirmwareProgram()
    for name, data in (("kexec_image", kexec), ("kexec_crash_image", crash)):
        program.set_pointer(name, "kimage", None if data is None else program.place(data))
    return program


def test_nothing_loaded() -> None:
    assert read_kexec_segments(loaded(None, None).prog) == ()


def test_both() -> None:
    program = loaded(image([(0x100000000, 0x2000)]), image([(0x3000000, 0x1000), (0xEFFE000, 0x5000)]))
    assert [tuple(segment) for segment in read_kexec_segments(program.prog)] == [
        ("kexec_image", 0x100000000, 0x100002000),
        ("kexec_crash_image", 0x3000000, 0x3001000),
        ("kexec_crash_image", 0xEFFE000, 0xF003000),
    ]


@pytest.mark.parametrize("number", [17, 1 << 63])
def test_more_segments_than_there_are(number: int) -> None:
    with pytest.raises(Unavailable, match=rf"kexec_crash_image->nr_segments is {number}"):
        read_kexec_segments(loaded(None, image([], number)).prog)


def test_as_many_segments_as_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the types, which can be the target's own, have room for more."""
    segments = [(0x1000 * n, 0x1000) for n in range(16)]
    assert len(read_kexec_segments(loaded(image(segments), None).prog)) == limits.KEXEC_SEGMENTS
    monkeypatch.setattr(limits, "KEXEC_SEGMENTS", 15)
    assert len(read_kexec_segments(loaded(image(segments[:15]), None).prog)) == 15
    with pytest.raises(Unavailable, match=r"^kexec_image->nr_segments is 16: at most 15 are possible$"):
        read_kexec_segments(loaded(image(segments), None).prog)


@pytest.mark.parametrize("segment", [((1 << 64) - 4096, 8192), (0, 1 << 60), (1 << 52, 4096)])
def test_a_segment_that_cannot_be(segment: tuple[int, int]) -> None:
    with pytest.raises(Unavailable, match="no physical range"):
        read_kexec_segments(loaded(image([segment]), None).prog)


def test_an_image_that_is_not_captured() -> None:
    program = loaded(None, None)
    program.set_pointer("kexec_image", "kimage", 0x3000000)
    with pytest.raises(Unavailable, match=r"kexec_image 0xffff888003000000: not in this target"):
        read_kexec_segments(program.prog)


def test_a_kernel_without_kexec() -> None:
    with pytest.raises(LookupError):
        read_kexec_segments(FirmwareProgram().prog)
