# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases made from random numbers: what the program reads, BTF, headers, text, length."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from drgn_unaccepted.targets.btf import Btf, Kind
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.fuzz import oracle
from tests.fuzz.case import NAMES, NASTY, Case, clean, sample
from tests.targets.elf_dump import START_KERNEL_MAP

PAGE = 4096

#: Types whose BTF is damaged.
STRUCTS = """
    accept_range boot_params cpuinfo_x86 cpumask e820_table efi efi_info efi_memory_map free_area kimage list_head
    mem_section mem_section_usage page per_cpu_zonestat pglist_data prb_data_ring prb_desc prb_desc_ring printk_info
    printk_ringbuffer qspinlock setup_header signal_struct spinlock task_struct thread_info zone
""".split()
ENUMS = "migratetype pageflags pagetype system_states zone_stat_item zone_type zone_watermarks".split()


def generate(rng: random.Random, names: tuple[str, ...] = NAMES) -> Case:
    """A case; the same random numbers make the same case."""
    name = rng.choice(names)
    makers = (_memory, _btf, vmcoreinfo, _elf_headers, _kdump_headers, _cut)
    return rng.choices(makers, (60, 10, 12, 8, 8, 2))[0](rng, name)


def _memory(rng: random.Random, name: str) -> Case:
    form = rng.choices(("elf", "bare", "encrypted"), (16, 2, 2))[0]
    return replace(oracle.damaged(rng, (name,)), form=form)


def _btf(rng: random.Random, name: str) -> Case:
    """One to four words of the types that the program looks up: a whole BTF has too many others."""
    chosen = rng.choices(btf_words(name), k=rng.choice((1, 1, 1, 2, 4)))
    memory = tuple((at, rng.choice(oracle.fills(rng, sample(name).read(at, 4))).hex()) for at in chosen)
    return Case(name, "btf", memory=memory)


@cache
def btf_words(name: str) -> list[int]:
    """Their physical addresses."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "dump"
        path.write_bytes(clean(name, "elf").data)
        prog = open_vmcore(str(path)).prog
    start, stop = (prog.symbol(name).address for name in ("__start_BTF", "__stop_BTF"))
    data = prog.read(start, stop - start)
    physical = start - START_KERNEL_MAP + sample(name).number("NUMBER(phys_base)")
    return [
        physical + at
        for at in (*range(0, 24, 4), *_words_of_types(Btf(prog, data), *struct.unpack_from("<4xII", data)))
    ]


def _words_of_types(btf: Btf, header: int, type_off: int) -> Iterator[int]:
    types = header + type_off
    for kind, names, element in ((Kind.STRUCT, STRUCTS, 12), (Kind.ENUM, ENUMS, 8)):
        for number in filter(None, (btf.find(name, (kind,)) for name in names)):
            record = btf.record(number)
            yield from range(types + record.data - 12, types + record.data + record.vlen * element, 4)
            for _, type_id, *_ in btf.members(record) if kind == Kind.STRUCT else ():
                data_at = types + btf.record(type_id).data
                yield from range(data_at - 12, data_at + 12, 4)


def vmcoreinfo(rng: random.Random, name: str) -> Case:
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
    """Words of the ELF header, of the first program headers, of the note's header; bytes of the ELF header."""
    data = clean(name, "elf").data
    (notes,) = struct.unpack_from("<Q", data, 64 + 8)
    fields = [(at, size) for size in (2, 4, 8) for at in range(16, 64 + 3 * 56, size)]
    fields += [*((at, 1) for at in range(16)), *((notes + at, 4) for at in range(0, 16, 4))] * 4
    return Case(name, "headers", file=patches(rng, data, fields))


def _kdump_headers(rng: random.Random, name: str) -> Case:
    """Fields of the kdump-compressed format: both headers, bitmaps, page descriptors, compressed pages."""
    data = clean(name, "kdump").data
    (blocks_of_sub_header,) = struct.unpack_from("<i", data, 432)
    (blocks_of_bitmaps,) = struct.unpack_from("<I", data, 436)
    bitmaps = (1 + blocks_of_sub_header) * PAGE
    descriptors = bitmaps + blocks_of_bitmaps * PAGE
    number = rng.randrange(2000)
    (page_at,) = struct.unpack_from("<Q", data, descriptors + 24 * number)
    fields = [(at, 4) for at in (0, 8, *range(12, 402, 65), *range(424, 464, 4), PAGE + 8, PAGE + 12)] * 2
    fields += [(PAGE + at, 8) for at in range(0, 104, 8)] * 2
    fields += [(descriptors + 24 * number + at, size) for at, size in ((0, 8), (8, 4), (12, 4), (16, 8))] * 8
    fields += [(rng.randrange(bitmaps, descriptors), 1) for _ in range(8)]
    fields += [(page_at + rng.randrange(64), 1) for _ in range(8)]
    return Case(name, "headers", "kdump", file=patches(rng, data, fields))


def patches(rng: random.Random, data: bytes, fields: list[tuple[int, int]]) -> tuple[tuple[int, str], ...]:
    chosen = rng.choices(fields, k=rng.choice((1, 1, 1, 2, 3)))
    return tuple((at, rng.choice(oracle.fills(rng, data[at : at + size])).hex()) for at, size in chosen)


def _cut(rng: random.Random, name: str) -> Case:
    form = rng.choice(("elf", "bare", "encrypted", "kdump"))
    size = len(clean(name, form).data)
    return Case(
        name, "cut", form, size=rng.choice((rng.randrange(size), rng.randrange(10000), size - rng.randrange(1, 9)))
    )
