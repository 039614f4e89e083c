# SPDX-License-Identifier: LGPL-2.1-or-later
"""The scenarios: which memory the guest is given as type 15, what it does, and how it is captured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .image import Range

MIB = 1 << 20
GIB = 1 << 30
HIGH = 4 * GIB

# 512 MiB below 4 GiB, and 1 GiB from 4 GiB on.
MEMORY = ("-machine", "q35,max-ram-below-4g=512M", "-m", "1536M", "-smp", "2")
# The same, as two nodes: node 1 is the last 512 MiB. CPUs 0 and 2 are on node 0.
TWO_NODES = (
    *("-machine", "q35,max-ram-below-4g=512M", "-m", "1536M"),
    *("-object", "memory-backend-ram,id=ram0,size=1G", "-object", "memory-backend-ram,id=ram1,size=512M"),
    *("-smp", "3", "-numa", "node,nodeid=0,cpus=0,cpus=2,memdev=ram0", "-numa", "node,nodeid=1,cpus=1,memdev=ram1"),
)
ON_BOTH_NODES = (
    Range(HIGH + 128 * MIB, HIGH + 512 * MIB),
    Range(HIGH + 576 * MIB, HIGH + 896 * MIB),
)
# The same and a DIMM far away, so that the table spans more than 64 GiB.
DIMM = 72 * GIB


def far_dimm(size: str) -> Sequence[str]:
    return (
        *("-machine", "q35,max-ram-below-4g=512M", "-m", "1536M,slots=1,maxmem=96G", "-smp", "2"),
        *("-object", f"memory-backend-ram,id=far,size={size}", "-device", f"pc-dimm,memdev=far,addr={DIMM:#x}"),
    )


WHOLE = (Range(HIGH, HIGH + 896 * MIB),)


READY = "lab: ready"
PANIC = "Kernel panic - not syncing"


@dataclass(frozen=True)
class Scenario:
    """One guest. `do` are the verbs of init.sh; `kdump` the formats that its crash kernel saves.

    `ready` are the words on the console at which it is captured; `accounts` says whether it gets to give its account.
    `stock`: with a distribution's kernel, which does not say what it accepted and has no share to say it in.
    """

    name: str
    about: str
    ranges: Sequence[Range] = WHOLE
    do: str = "account,idle"
    options: Sequence[str] = ()
    kdump: Sequence[str] = ()
    machine: Sequence[str] = MEMORY
    cpu: str = "max,la57=off"
    vmcoreinfo: bool = True
    dump_formats: Sequence[str] = ("elf",)
    ready: str = READY
    accounts: bool = True
    crashes: bool = False
    efi_debug: bool = True
    seconds: int = 240
    stock: bool = False


_ALL = (
    Scenario("fresh", "booted, nothing more", do="kdump,account,idle", kdump=("elf", "z")),
    Scenario(
        "fill",
        "part accepted by a tmpfs fill",
        do="fill:650,kdump,account,idle",
        kdump=("elf", "z", "flat"),
        dump_formats=("elf", "kdump-zlib"),
    ),
    Scenario(
        "plain",
        "as fill, without efi=debug: as users boot, and so with smaller dumps",
        do="fill:650,kdump,account,idle",
        kdump=("elf", "z"),
        efi_debug=False,
    ),
    Scenario(
        "edges",
        "several ranges: unaligned edges, one under 4 MiB, a whole unit inside a short one, neighbours",
        ranges=(
            Range(HIGH + 0x00000000, HIGH + 0x08000000),
            Range(HIGH + 0x08000000, HIGH + 0x08300000),  # 3 MiB right behind: accepted whole, holds a whole unit
            Range(HIGH + 0x08300000, HIGH + 0x08600000),  # and its neighbour, likewise
            Range(HIGH + 0x0A001000, HIGH + 0x0FFFF000),  # both edges off by a page
            Range(HIGH + 0x11100000, HIGH + 0x11500000),  # 4 MiB, but off by 1 MiB: one whole unit
            Range(HIGH + 0x12000000, HIGH + 0x12200000),  # one unit exactly: accepted whole
            Range(HIGH + 0x14000000, HIGH + 0x14400000),  # two units: the shortest that stays
            Range(HIGH + 0x16200000, HIGH + 0x20000000),  # unit aligned, not chunk aligned
            Range(HIGH + 0x20000000, HIGH + 0x369FF000),  # a neighbour, ends one page short, inside a byte
        ),
        do="kdump,account,idle",
        kdump=("elf", "z"),
    ),
    Scenario(
        "numa",
        "two nodes, unaccepted memory on both",
        ranges=ON_BOTH_NODES,
        do="fill:200,kdump,account,idle",
        kdump=("elf", "z"),
        machine=TWO_NODES,
    ),
    Scenario("eager", "accept_memory=eager", options=("accept_memory=eager",)),
    Scenario("none", "no memory of type 15", ranges=()),
    Scenario(
        "all",
        "everything accepted: filled, then given back",
        do="fillall,free,kdump,account,idle",
        kdump=("z",),
    ),
    Scenario(
        "big",
        "a table larger than a page: a DIMM at 72 GiB",
        ranges=(*WHOLE, Range(DIMM, DIMM + 128 * MIB, fake=True)),
        machine=far_dimm("128M"),
    ),
    Scenario(
        "e820ext",
        "more e820 entries than boot_params has room for: 120 islands of type 15 at 72 GiB",
        # RAM has to lie behind the islands: early allocations are made from the top.
        ranges=(
            *WHOLE,
            *(Range(DIMM + i * 16 * MIB, DIMM + i * 16 * MIB + 8 * MIB, fake=True) for i in range(120)),
        ),
        do="kdump,account,idle",
        kdump=("elf", "z"),
        machine=far_dimm("2G"),
    ),
    Scenario(
        "wrapped",
        "the log's oldest lines were overwritten, and with them the EFI memory map in it",
        do="chatter:4000,kdump,account,idle",
        options=("printk.devkmsg=on",),
        kdump=("z",),
    ),
    Scenario("nokaslr", "as fill, without KASLR", do="fill:650,account,idle", options=("nokaslr",)),
    Scenario("la57", "as fill, with five levels of page tables", do="fill:650,account,idle", cpu="max,la57=on"),
    Scenario(
        "novmcoreinfo",
        "as fill, without QEMU's vmcoreinfo device",
        do="fill:650,account,idle",
        vmcoreinfo=False,
    ),
    Scenario(
        "panic",
        "accepting fails: dead by `Cannot accept memory: unknown platform`, dumped by QEMU",
        do="fill:100,account,fail,fill:1200",
        ready=PANIC,
    ),
    Scenario(
        "panic-kdump",
        "the same death, captured by kdump",
        do="fill:100,kdump,account,fail,fill:1200",
        kdump=("elf", "z"),
        ready=PANIC,
        crashes=True,
    ),
    Scenario(
        "inflight",
        "dumped while two nodes accept memory, every accept taking a second",
        ranges=ON_BOTH_NODES,
        do="account,delay:1000000,spin,accepting,idle",
        machine=TWO_NODES,
    ),
    Scenario(
        "early",
        "stopped in early boot: no VMCOREINFO anywhere yet, struct pages not yet initialised",
        ready="SLUB: HWalign",
        accounts=False,
    ),
    Scenario(
        "kexec",
        "the second kernel after a kexec: the same table, and an EFI map of runtime entries only",
        do="fill:200,kexec",
        options=("lab.then=account,idle",),
    ),
    Scenario(
        "add_efi_memmap",
        "add_efi_memmap turns memory of type 15 into reserved memory",
        options=("add_efi_memmap",),
    ),
    Scenario(
        "low",
        "memory of type 15 below 4 GiB too",
        ranges=(Range(128 * MIB, 192 * MIB), *WHOLE),
        do="fill:100,account,idle",
    ),
    Scenario(
        "stock-idle",
        "a distribution's kernel, without memory of type 15",
        ranges=(),
        do="idle",
        accounts=False,
        efi_debug=False,
        stock=True,
    ),
    Scenario(
        "stock-panic",
        "a distribution's kernel with memory of type 15 and nobody to accept it: dead after a second",
        options=("earlyprintk=serial,ttyS0,115200",),
        seconds=60,
        do="idle",
        ready=PANIC,
        accounts=False,
        efi_debug=False,
        stock=True,
    ),
)

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
