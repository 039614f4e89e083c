# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO: the text in which a kernel describes itself to readers of its dumps (kernel/vmcore_info.c)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Optional

from drgn import Program

from drgn_unaccepted import limits
from drgn_unaccepted.targets.errors import TargetError

# NUMBER() and LENGTH() are printed as %ld or %lu, SYMBOL() as %lx.
_DECIMAL = re.compile(r"-?[0-9]{1,20}")
_HEXADECIMAL = re.compile(r"(?:0x)?[0-9a-f]{1,16}")


class Vmcoreinfo(NamedTuple):
    """The entries of one kernel's VMCOREINFO. A malformed value counts as absent."""

    text: bytes
    entries: Mapping[str, str]  #: Values by key, as ``SYMBOL(_stext)``. The last of equal keys wins, as in drgn.

    def symbol(self, name: str) -> Optional[int]:
        """``SYMBOL(name)``: a virtual address."""
        return self._value(f"SYMBOL({name})", _HEXADECIMAL, 16)

    def number(self, name: str) -> Optional[int]:
        """``NUMBER(name)``; it may be negative."""
        return self._value(f"NUMBER({name})", _DECIMAL, 10)

    def length(self, name: str) -> Optional[int]:
        """``LENGTH(name)``: elements of an array."""
        return self._value(f"LENGTH({name})", _DECIMAL, 10)

    def _value(self, key: str, pattern: re.Pattern[str], base: int) -> Optional[int]:
        value = self.entries.get(key, "")
        return int(value, base) if pattern.fullmatch(value) else None


@lru_cache(maxsize=4)
def parse_vmcoreinfo(text: bytes) -> Vmcoreinfo:
    """Split the text of a VMCOREINFO note into entries. TargetError: longer than :data:`limits.VMCOREINFO_BYTES`."""
    if len(text) > limits.VMCOREINFO_BYTES:
        raise TargetError(f"VMCOREINFO has {len(text)} bytes, limit {limits.VMCOREINFO_BYTES}")
    lines = (line.partition("=") for line in text.decode("latin-1").split("\n"))
    return Vmcoreinfo(text, {key: value for key, equals, value in lines if equals})


def vmcoreinfo_of(prog: Program) -> Vmcoreinfo:
    return parse_vmcoreinfo(prog["VMCOREINFO"].string_())
