# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a loaded kexec or crash kernel will be copied to."""

from __future__ import annotations

from drgn import FaultError, Program

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.snapshot import KexecSegment


def read_kexec_segments(prog: Program) -> tuple[KexecSegment, ...]:
    """Return the destinations of ``struct kimage *kexec_image`` and ``kexec_crash_image``.

    ``segment[i].mem`` is a physical address, ``memsz`` bytes. Nothing loaded is an empty tuple.

    Before Linux kernel commit caeb8ba598f0 ("kexec_core: accept unaccepted kexec segments' destination
    addresses") (in v6.15) kexec could copy a segment into unaccepted memory.

    :raises Unavailable: an image is not in the target, or a count or an address in it is out of bounds
    :raises LookupError: the kernel was built without CONFIG_KEXEC_CORE
    """
    segments: list[KexecSegment] = []
    for name in ("kexec_image", "kexec_crash_image"):
        pointer = prog[name].read_()
        if not pointer:
            continue
        try:
            # In slab memory: makedumpfile 1.7.2 leaves such pages of a 7.x kernel out.
            image = pointer[0].read_()
        except FaultError as error:
            raise Unavailable(f"{name} {pointer.value_():#x}: not in this target") from error
        count = image.nr_segments.value_()
        if count > min(limits.KEXEC_SEGMENTS, len(image.segment)):
            raise Unavailable(f"{name}->nr_segments is {count}: at most {limits.KEXEC_SEGMENTS} are possible")
        for index in range(count):
            segment = image.segment[index]
            start = segment.mem.value_()
            end = start + segment.memsz.value_()
            if end > limits.PHYSICAL_END:
                raise Unavailable(f"{name}->segment[{index}] {start:#x}-{end:#x}: no physical range")
            segments.append(KexecSegment(name, start, end))
    return tuple(segments)
