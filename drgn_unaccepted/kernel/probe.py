# SPDX-License-Identifier: LGPL-2.1-or-later
"""How what the kernel has is found and read: types, by looking and not by version, per-CPU variables, linked lists.

Lists are bounded and checked for cycles, with one read for each entry. They can have a million: blocks of them are read
first and judged then, by whole columns of members.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Callable, NamedTuple, Optional, TypeVar

from drgn import FaultError, Object, ObjectAbsentError, Program, ProgramFlags, offsetof, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.targets.errors import Unavailable

U64_MAX = (1 << 64) - 1

#: Entries that are judged together: few at first, since a damaged head leads anywhere, then more and more.
_FIRST_BLOCK, _BLOCK = 16, 4096

_LINKS = struct.Struct("<QQ")
_NEXT = struct.Struct("<Q")

T = TypeVar("T")


def enumerators(prog: Program, name: str) -> dict[str, int]:
    """The constants of ``enum name``; empty where the kernel has no such enumeration."""
    try:
        found = prog.type(f"enum {name}").enumerators
    except LookupError:
        return {}
    return {constant.name: constant.value for constant in found or ()}


def member_offset(prog: Program, structure: str, *names: str, size: int = 0) -> int:
    """Bytes from the start of ``struct structure`` to the first of these members that it has.

    :param size: bytes that the caller reads there, where it reads the whole structure as bytes
    :raises LookupError: it has none of them, or there is no such structure
    :raises Unavailable: these bytes are not all in the structure
    """
    type_ = prog.type(structure)
    for name in names:
        with suppress(LookupError):
            end = offsetof(type_, name) + size
            if size and end > sizeof(type_):
                raise Unavailable(f"{structure} has {sizeof(type_)} bytes and members up to {end}: not supported")
            return int(end - size)
    raise LookupError(f"{structure} has no member {' or '.join(names)}")


def read_string(prog: Program, address: int, limit: int) -> bytes:
    """The C string at ``address``, up to ``limit`` bytes. drgn has ``read_c_string()`` since 0.0.32."""
    text: bytes = Object(prog, prog.array_type(prog.type("char"), limit), address=address).string_()
    return text


def cpus_in(prog: Program, name: str) -> list[int]:
    """The numbers of the CPUs in ``struct cpumask name``: ``__cpu_possible_mask``, ``__cpu_present_mask``.

    Do not use ``__cpu_online_mask``: a panic removes all CPUs but its own from it.

    :raises Unavailable: the mask is larger than any kernel's
    :raises LookupError: there is none (no CONFIG_SMP)
    """
    size = sizeof(prog.type("struct cpumask"))
    if size * 8 > limits.GLOBAL_ARRAY_LENGTH:
        raise Unavailable(f"struct cpumask has {size} bytes: at most {limits.GLOBAL_ARRAY_LENGTH} bits")
    bits = int.from_bytes(prog.read(prog.symbol(name).address, size), "little")
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


def possible_cpus(prog: Program) -> dict[int, int]:
    """``__per_cpu_offset[]`` of all possible CPUs, to be added to the address of a per-CPU variable.

    Without CONFIG_SMP there is one CPU, whose variables are where their symbols say.

    :raises Unavailable: a mask without CPUs
    """
    try:
        offsets = prog["__per_cpu_offset"].address_of_().value_()
    except LookupError:
        return {0: 0}
    numbers = cpus_in(prog, "__cpu_possible_mask")
    if not numbers:
        raise Unavailable("__cpu_possible_mask is empty")
    data = memoryview(prog.read(offsets, 8 * (numbers[-1] + 1))).cast("Q")
    return {number: data[number] for number in numbers}


def per_cpu_word(prog: Program, name: str, cpu_offset: int) -> int:
    """The value of a per-CPU variable that is a pointer: ``hardirq_stack_ptr``, ``current_task``.

    In Linux 6.2 to 6.14 some of them are members of one per-CPU variable, ``pcpu_hot``.

    :raises LookupError: the kernel has no such variable
    """
    try:
        address = _address(prog, "pcpu_hot") + member_offset(prog, "struct pcpu_hot", name)
    except LookupError:
        address = _address(prog, name)
    return int(prog.read_u64(address + cpu_offset & U64_MAX))


def _address(prog: Program, name: str) -> int:
    try:
        return int(prog[name].address_of_().value_())
    except (LookupError, ObjectAbsentError):
        return int(prog.symbol(name).address)


class Entries(NamedTuple):
    size: int  #: Bytes of an entry, a multiple of 8, and the offset of its ``struct list_head`` in them.
    link: int
    #: The numbers of the entries whose ``list_head`` have these addresses, up to where there can be no entry.
    numbers: Callable[[array[int]], array[int]]
    noun: str  #: The words for an entry, and for an address where there can be none.
    outside: str


class ListWalk:
    """One walk along a list, from its head.

    It ends at ``head``, the ``struct list_head`` that no entry contains, or with a problem: NULL, an address where
    there can be no entry, an entry that is not in the target, a cycle, or more entries than ``most``.
    """

    def __init__(self, prog: Program, head: int, entries: Entries, most: int) -> None:
        self._read, self._head, self._entries, self._most = prog.read, head, entries, most
        self.problems: list[str] = []  #: What ended the walk early, and what is wrong with the links.
        # The entry that comes next, and the one before it.
        self._address, self._previous = head, head
        self._met = array("Q")
        # An entry that is met twice has a wrong prev at one of the two times: sane lists need no set.
        self._seen: Optional[set[int]] = None
        self._wrong_links = 0
        self._block = min(_FIRST_BLOCK, _BLOCK)

    def blocks(self) -> Iterator[tuple[array[int], bytes]]:
        """Yield the numbers of some entries and their bytes, one entry behind the other, in list order."""
        try:
            self._address, last = _LINKS.unpack(self._read(self._head, _LINKS.size))
        except FaultError as error:
            self.problems.append(f"list head {self._head:#x}: {error}")
            return
        more = self._address != self._head
        while more:
            links, data, more = self._follow()
            if not links:
                break
            numbers = self._entries.numbers(links)
            good = self._judge(numbers, links, data)
            if good < len(links):
                self._address, more = links[good], False
            if good:
                self._previous = links[good - 1]
                self._met += numbers[:good]
                yield numbers[:good], data[: good * self._entries.size]
        self._end(last)

    def _follow(self) -> tuple[array[int], bytes, bool]:
        """Read a block of entries whatever they are: their addresses and bytes, and whether more may follow."""
        read, head, link, size = self._read, self._head, self._entries.link, self._entries.size
        following = _NEXT.unpack_from
        blocks: list[bytes] = []
        address, more = self._address, True
        try:
            for _ in range(min(self._block, self._most - len(self._met))):
                block = read(address - link, size)
                blocks.append(block)
                (address,) = following(block, link)
                if address == head:
                    break
        except (FaultError, OverflowError):
            more = False
        data = b"".join(blocks)
        links = array("Q", [self._address]) + column(array("Q", data), link, size)
        self._address, self._block = address, min(8 * self._block, _BLOCK)
        return links[:-1], data, more and address != head

    def _judge(self, numbers: array[int], links: array[int], data: bytes) -> int:
        """How many entries of a block are on the list, with wrong links noted."""
        backs = column(array("Q", data), self._entries.link + 8, self._entries.size)
        befores = array("Q", [self._previous]) + links[:-1]
        if self._seen is None:
            if backs == befores:
                return len(numbers)
            self._seen = set(self._met)
        for index, (number, before, back) in enumerate(zip(numbers, befores, backs)):
            if number in self._seen:
                return index
            self._seen.add(number)
            if back != before:
                self._wrong_links += 1
                if self._wrong_links <= limits.LIST_PROBLEMS:
                    at = len(self._met) + index
                    what = f"{self._entries.noun}{number:#x} has prev {back:#x}"
                    self.problems.append(f"entry {at}: {what}, it was reached from {before:#x}")
        return len(numbers)

    def _end(self, last: int) -> None:
        """Note why the walk ended, if not at a head that points back to the last entry."""
        count, address, noun = len(self._met), self._address, self._entries.noun
        numbers = self._entries.numbers(array("Q", [address]))
        if address == self._head:
            if last != self._previous:
                self.problems.append(f"list head has prev {last:#x}, the last entry is {self._previous:#x}")
        elif not numbers:
            where = f"{address:#x}, which is {self._entries.outside}" if address else "NULL"
            self.problems.append(f"entry {count}: the entry before it points to {where}")
        elif self._seen is not None and numbers[0] in self._seen:
            self.problems.append(f"entry {count}: {noun}{numbers[0]:#x} again: a cycle")
        elif count == self._most:
            self.problems.append(f"more than {self._most} entries")
        else:
            self.problems.append(f"entry {count}: {noun}{numbers[0]:#x} is not in this target")
        if self._wrong_links > limits.LIST_PROBLEMS:
            self.problems.append(f"{self._wrong_links - limits.LIST_PROBLEMS} more entries with a wrong prev")


def column(words: array[int], offset: int, size: int) -> array[int]:
    """One member of each structure in ``words``, an array of structures of ``size`` bytes."""
    members = words[offset // words.itemsize :: size // words.itemsize]
    if sys.byteorder == "big":
        members.byteswap()
    return members


def settled(prog: Program, read: Callable[[], T], problems: Callable[[T], Sequence[object]]) -> T:
    """Read something; on a running kernel again while it has problems, :data:`limits.LIVE_ATTEMPTS` times in all."""
    found = read()
    attempts = limits.LIVE_ATTEMPTS if prog.flags & ProgramFlags.IS_LIVE else 1
    while problems(found) and (attempts := attempts - 1):
        found = read()
    return found
