# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases made from random numbers: fields with harmful values, random bytes, headers, text, length."""

from __future__ import annotations

import random
import struct

from tests.fuzz.case import NAMES, Case, clean, sample
from tests.fuzz.places import Place, places

PAGE = 4096
U64 = (1 << 64) - 1

#: Harmful numbers and pointers: edges of integers; addresses of user space, not canonical, LIST_POISON1, a poisoned
#: struct page, the start of the direct map, kernel text.
NASTY = (
    *(0, 1, 2, 3, 7, 24, 0x7F, 0x80, 0xFF, 0x1000, 0xFFFF, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1),
    *(1 << 32, 1 << 40, (1 << 52) - 4096, 1 << 52, 1 << 62, (1 << 63) - 1, 1 << 63, U64, U64 - 7, U64 - 4095),
    *(0x7FFF00001000, 0x0000900000000000, 0xDEAD000000000100, 0x6B6B6B6B6B6B6B6B),
    *(0xFFFF888000000000, 0xFFFFFFFF81000000),
)


def generate(rng: random.Random, names: tuple[str, ...] = NAMES) -> Case:
    """A case; the same random numbers make the same case."""
    name = rng.choice(names)
    makers = (_fields, _bytes, _vmcoreinfo, _elf_headers, _kdump_headers, _cut)
    return rng.choices(makers, (60, 10, 12, 8, 8, 2))[0](rng, name)


def _form(rng: random.Random) -> str:
    return rng.choices(("elf", "bare", "encrypted"), (16, 2, 2))[0]


def _fields(rng: random.Random, name: str) -> Case:
    """One to four fields of one kind of structure."""
    there = places(name)
    group = rng.choice(sorted(there))
    chosen = rng.choices(there[group], k=rng.choice((1, 1, 1, 2, 4)))
    form = _form(rng)
    memory = tuple((place.address, _value(rng, name, group, place).hex()) for place in chosen)
    return Case(name, group, form, memory)


def _value(rng: random.Random, name: str, group: str, place: Place) -> bytes:
    size = min(place.size, 8)
    if place.size > 8:
        return rng.randbytes(rng.randint(1, min(place.size, 64)))
    old = int.from_bytes(sample(name).read(place.address, size), "little")
    way = rng.randrange(6)
    if way == 0:
        value = old ^ 1 << rng.randrange(8 * size)
    elif way == 1:
        value = old + rng.choice((-4096, -64, -8, -1, 1, 8, 64, 4096))
    elif way == 2:
        # The value of another field: a pointer that leads to something else.
        other = rng.choice(places(name)[group])
        value = int.from_bytes(sample(name).read(other.address, min(other.size, 8)), "little")
    elif way == 3:
        value = rng.getrandbits(8 * size)
    else:
        value = rng.choice(NASTY)
    return (value & U64).to_bytes(8, "little")[:size]


def _bytes(rng: random.Random, name: str) -> Case:
    """Bytes at random in a page of some kind of structure."""
    there = places(name)
    group = rng.choice(sorted(there))
    start = rng.choice(there[group]).address // PAGE * PAGE
    memory = []
    for _ in range(rng.choice((1, 4, 16, 64))):
        memory.append((start + rng.randrange(PAGE - 8), rng.randbytes(rng.randint(1, 8)).hex()))
    if rng.randrange(10) == 0:
        memory = [(start, rng.choice((bytes(PAGE), b"\xff" * PAGE, rng.randbytes(PAGE))).hex())]
    # A page holds more than its group.
    return Case(name, f"page of {group}", _form(rng), tuple(memory))


def _vmcoreinfo(rng: random.Random, name: str) -> Case:
    text = sample(name).vmcoreinfo.decode("latin-1")
    lines = [line for line in text.split("\n") if line]
    replace = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        line = rng.choice(lines) + "\n"
        key, _, value = line[:-1].partition("=")
        new = rng.choice(
            (
                "",
                f"{key}=\n",
                key,
                f"{key}={rng.choice(NASTY)}\n",
                f"{key}={rng.choice(NASTY):x}\n",
                f"{key}=-{rng.choice(NASTY)}\n",
                f"{key}={'9' * rng.choice((19, 20, 21, 5000))}\n",
                f"{key}={'f' * rng.choice((15, 16, 17))}\n",
                f"{key}={value}\x1b[2J\x07\n",
                f"{key}=\xff\xfe{value}\n",
                f"{key}={value}\0\n",
                line + line,
                f"{key}={value[:-1]}{rng.choice('0123456789abcdef')}\n",
                f"{key}={rng.choice(lines).partition('=')[2]}\n",
                "".join(chr(rng.randrange(256)) for _ in range(rng.randrange(40))),
            )
        )
        replace.append((line, new))
    return Case(name, "vmcoreinfo", vmcoreinfo=tuple(replace))


def _elf_headers(rng: random.Random, name: str) -> Case:
    """Fields of the ELF header, of program headers, of the note's header."""
    data = clean(name, "elf").data
    (count,) = struct.unpack_from("<H", data, 56)
    header = [*((at, 2) for at in (16, 18, *range(52, 62, 2))), (20, 4), (24, 8), (32, 8), (40, 8), (48, 4)]
    fields = [*header, *((at, 1) for at in range(16))]
    for number in range(count):
        at = 64 + 56 * number
        fields += [(at, 4), (at + 4, 4), *((at + offset, 8) for offset in range(8, 56, 8))]
    # The PT_NOTE is the first one, and often worth it.
    first = [field for field in fields if 64 <= field[0] < 64 + 112]
    (notes,) = struct.unpack_from("<Q", data, 64 + 8)
    first += [(notes + at, 4) for at in (0, 4, 8, 12)]
    return Case(name, "headers", file=_patches(rng, data, [*fields, *first * 8]))


def _kdump_headers(rng: random.Random, name: str) -> Case:
    """Fields of the kdump-compressed format: both headers, bitmaps, page descriptors, compressed pages."""
    data = clean(name, "kdump").data
    (blocks_of_sub_header,) = struct.unpack_from("<i", data, 432)
    (blocks_of_bitmaps,) = struct.unpack_from("<I", data, 436)
    bitmaps = (1 + blocks_of_sub_header) * PAGE
    descriptors = bitmaps + blocks_of_bitmaps * PAGE
    header = [(0, 4), (8, 4), *((at, 4) for at in range(424, 464, 4)), *((12 + 65 * n, 4) for n in range(6))]
    sub_header = [(PAGE + at, 8) for at in range(0, 104, 8)] + [(PAGE + 8, 4), (PAGE + 12, 4)]
    number = rng.randrange(2000)
    descriptor = [(descriptors + 24 * number + at, size) for at, size in ((0, 8), (8, 4), (12, 4), (16, 8))]
    (page_at,) = struct.unpack_from("<Q", data, descriptors + 24 * number)
    fields = [*header * 2, *sub_header * 2, *descriptor * 8]
    fields += [(rng.randrange(bitmaps, descriptors), 1) for _ in range(8)]
    fields += [(page_at + rng.randrange(64), 1) for _ in range(8)]
    return Case(name, "headers", "kdump", file=_patches(rng, data, fields))


def _patches(rng: random.Random, data: bytes, fields: list[tuple[int, int]]) -> tuple[tuple[int, str], ...]:
    patches = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, size = rng.choice(fields)
        old = int.from_bytes(data[at : at + size], "little")
        value = rng.choice(
            (rng.choice(NASTY), old ^ 1 << rng.randrange(8 * size), old + rng.choice((-1, 1, 4096, -4096)))
        )
        patches.append((at, (value & U64).to_bytes(8, "little")[:size].hex()))
    return tuple(patches)


def _cut(rng: random.Random, name: str) -> Case:
    form = rng.choice(("elf", "bare", "encrypted", "kdump"))
    size = len(clean(name, form).data)
    return Case(
        name, "cut", form, size=rng.choice((rng.randrange(size), rng.randrange(10000), size - rng.randrange(1, 9)))
    )
