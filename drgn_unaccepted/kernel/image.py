# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel's image says of itself: its banner, its command line, and the code that fixes left in it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Optional

from drgn import Program

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import DAMAGED
from drgn_unaccepted.snapshot import PAGE_SIZE, Image

#: Fixes that added a call: the function, and what it calls since then.
_CALLS = {
    "caeb8ba598f0": ("sanity_check_segment_list", "accept_memory"),
    "1c5a1627f481": ("accept_memory", "touch_softlockup_watchdog"),
}


def read_image(prog: Program) -> Image:
    """Each part is None, or not told, where it is not in the target."""
    known = {commit: _calls(prog, *names) for commit, names in _CALLS.items()}
    if _symbol(prog, "accept_memory"):
        known["50e782a86c98"] = _symbol(prog, "accepting_list") is not None
    if _symbol(prog, "unaccepted_memory_vmcore_pfn_is_ram"):
        known["7cd34dd3c9bf"] = True
    fixes, lacks = (tuple(commit for commit, there in known.items() if there is each) for each in (True, False))
    return Image(_banner(prog), command_line(prog), fixes, lacks)


def _symbol(prog: Program, name: str) -> Optional[tuple[int, int]]:
    """Address and size."""
    try:
        symbol = prog.symbol(name)
    except LookupError:
        return None
    return symbol.address, symbol.size


def _calls(prog: Program, caller: str, callee: str) -> Optional[bool]:
    """Whether a function has a ``call rel32`` of another one; None where its code is not in the target."""
    function, target = _symbol(prog, caller), _symbol(prog, callee)
    if function is None or target is None or not 0 < function[1] <= limits.FUNCTION_BYTES:
        return None
    try:
        code = prog.read(*function)
    except DAMAGED:
        return None
    # makedumpfile leaves pages out, and they read as zeros.
    pages = range(-(function[0] % PAGE_SIZE), len(code), PAGE_SIZE)
    if not all(any(code[max(0, at) : at + PAGE_SIZE]) for at in pages):
        return None
    for at in (match.start() for match in re.finditer(rb"\xe8(?=.{4})", code, re.DOTALL)):
        if function[0] + at + 5 + int.from_bytes(code[at + 1 : at + 5], "little", signed=True) == target[0]:
            return True
    return False


def _banner(prog: Program) -> Optional[str]:
    """The release in ``linux_banner``."""
    banner = _symbol(prog, "linux_banner")
    with suppress(*DAMAGED):
        match = banner and re.match(rb"Linux version ([!-~]{1,64}) ", prog.read(banner[0], limits.BANNER_BYTES))
        return match[1].decode() if match else None
    return None


def command_line(prog: Program) -> Optional[str]:
    with suppress(*DAMAGED):
        text = prog.read_c_string(prog["saved_command_line"].value_(), max_size=limits.COMMAND_LINE_BYTES)
        return text.decode("ascii", "backslashreplace")[: limits.COMMAND_LINE_BYTES] or None
    return None
