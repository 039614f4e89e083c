# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every bound on what is read out of a target, in one place.

A dump is untrusted input: a size, a count or a pointer found in it is compared with one of these before
anything is allocated or followed. Reaching a bound is a stated reason, never a silent truncation.
"""

from __future__ import annotations

#: Bytes of bitmap. 256 MiB cover 4 PiB at 2 MiB a unit, the kernel's own stated worst case.
BITMAP_BYTES = 256 << 20

#: Highest physical address plus one that x86-64 can have (52 bits).
PHYSICAL_END = 1 << 52
