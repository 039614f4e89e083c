# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel's image says of itself, in a memory with a few functions and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import drgn
import pytest
from drgn import Program, Symbol, SymbolBinding, SymbolIndex, SymbolKind

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.platform import read_image

TEXT, ACCEPT, BANNER = 0xFFFFFFFF81000F00, 0xFFFFFFFF81200000, 0xFFFFFFFF82000000


def program(code: bytes, banner: bytes = b"", size: Optional[int] = None, names: Sequence[str] = ()) -> Program:
    """``sanity_check_segment_list()`` of this code, at the end of a page."""
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    for address, data in ((TEXT, code), (BANNER, banner.ljust(limits.BANNER_BYTES, b"\0"))):
        prog.add_memory_segment(address, len(data), lambda at, n, offset, _, data=data: data[offset : offset + n])
    found = {"sanity_check_segment_list": (TEXT, len(code) if size is None else size), "accept_memory": (ACCEPT, 600)}
    found |= {"linux_banner": (BANNER, 64), **dict.fromkeys(names, (BANNER, 8))}
    symbols = [Symbol(name, *at, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN) for name, at in found.items()]
    prog.register_symbol_finder("test", SymbolIndex(symbols), enable_index=0)
    return prog


def call(at: int, target: int) -> bytes:
    return b"\xe8" + (target - (TEXT + at + 5)).to_bytes(4, "little", signed=True)


NOPS = b"\x90" * 240


@pytest.mark.parametrize(
    ("code", "size", "known"),
    [
        (NOPS + call(240, ACCEPT) + NOPS, None, True),
        (NOPS + call(240, ACCEPT + 16) + NOPS, None, False),
        # A jump, and a call whose last bytes belong to the next function.
        (NOPS + b"\xe9" + call(240, ACCEPT)[1:] + NOPS, None, False),
        (NOPS + call(240, ACCEPT)[:3], None, False),
        # Its second page was left out of the dump; a symbol without a size; one that is no function.
        (NOPS + bytes(200), None, None),
        (NOPS, 0, None),
        (NOPS, limits.FUNCTION_BYTES + 1, None),
        (NOPS, 4096, None),
    ],
)
def test_a_fix_that_added_a_call(code: bytes, size: Optional[int], known: Optional[bool]) -> None:
    image = read_image(program(code, size=size))
    assert ("caeb8ba598f0" in image.fixes, "caeb8ba598f0" in image.lacks) == (known is True, known is False)


def test_fixes_that_added_a_symbol() -> None:
    """accepting_list is there since 50e782a86c98; the other one needs CONFIG_PROC_VMCORE, too."""
    image = read_image(program(NOPS))
    assert "50e782a86c98" in image.lacks and "7cd34dd3c9bf" not in image.lacks
    names = ("accepting_list", "unaccepted_memory_vmcore_pfn_is_ram")
    assert {"50e782a86c98", "7cd34dd3c9bf"} <= {*read_image(program(NOPS, names=names)).fixes}


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (b"Linux version 6.12.117+deb12-amd64 (debian-kernel@", "6.12.117+deb12-amd64"),
        (b"", None),
        (b"Linux version \x1b[31m6.1 (", None),
        (b"Linux version " + b"6" * 65 + b" (", None),
    ],
)
def test_the_release_in_the_banner(text: bytes, release: Optional[str]) -> None:
    assert read_image(program(NOPS, text)).banner == release
