# SPDX-License-Identifier: LGPL-2.1-or-later
"""The scenarios: the memory given as type 15, what the guest does, and how it is captured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .image import Range

MIB = 1 << 20
GIB = 1 << 30
HIGH = 4 * GIB

# 512 MiB below 4 GiB and 1 GiB from 4 GiB.
MEMORY = ("-machine", "q35,max-ram-below-4g=512M", "-m", "1536M", "-smp", "2")
# The same as two nodes. Node 1 is the last 512 MiB; CPUs 0 and 2 are on node 0.
TWO_NODES = (
    *("-machine", "q35,max-ram-below-4g=512M", "-m", "1536M"),
    *("-object", "memory-backend-ram,id=ram0,size=1G", "-object", "memory-backend-ram,id=ram1,size=512M"),
    *("-smp", "3", "-numa", "node,nodeid=0,cpus=0,cpus=2,memdev=ram0", "-numa", "node,nodeid=1,cpus=1,memdev=ram1"),
)
ON_BOTH_NODES = (
    Range(HIGH + 128 * MIB, HIGH + 512 * MIB),
    Range(HIGH + 576 * MIB, HIGH + 896 * MIB),
)
# Four nodes of 768 MiB, 1 GiB below 4 GiB. Each node accepts memory at boot: with less, nothing would be left.
FOUR_NODES = (
    *("-machine", "q35,max-ram-below-4g=1G", "-m", "3G", "-smp", "1"),
    *(word for i in range(4) for word in ("-object", f"memory-backend-ram,id=ram{i},size=768M")),
    *(word for i in range(4) for word in ("-numa", f"node,nodeid={i},memdev=ram{i}{',cpus=0' * (not i)}")),
)
# Without cmpxchg16b, after which QEMU 7.2 gives the guest wrong flags: distribution kernels die of a general protection
# fault.
CPU = "max,la57=off,cx16=off"
FIVE_LEVELS = "max,la57=on,cx16=off"
# A DIMM at this address makes the table span more than 64 GiB.
DIMM = 72 * GIB


# With this end, the bitmap has 4,060 bytes: with its header it is shorter than a page, but crosses into the next one,
# because the firmware gives it no whole page.
CROSSING = HIGH + 4060 * 8 * 2 * MIB


def far_dimm(size: str, address: int = DIMM) -> Sequence[str]:
    return (
        *("-machine", "q35,max-ram-below-4g=512M", "-m", "1536M,slots=1,maxmem=96G", "-smp", "2"),
        *("-object", f"memory-backend-ram,id=far,size={size}", "-device", f"pc-dimm,memdev=far,addr={address:#x}"),
    )


WHOLE = (Range(HIGH, HIGH + 896 * MIB),)


READY = "lab: ready"
EARLY_CONSOLE = "earlyprintk=serial,ttyS0,115200"
PANIC = "Kernel panic - not syncing"


@dataclass(frozen=True)
class Scenario:
    """One guest. `do` is a list of verbs for init.sh; `kdump` lists the formats that its crash kernel saves.

    The guest is captured when its console shows `ready`. `accounts` tells whether it writes its account before that.
    With `unpatched`, the loader leaves an unmodified kernel as it is. A `live_only` guest is too large for captures.
    """

    name: str
    about: str
    ranges: Sequence[Range] = WHOLE
    do: str = "account,idle"
    options: Sequence[str] = ()
    kdump: Sequence[str] = ()
    machine: Sequence[str] = MEMORY
    cpu: str = CPU
    vmcoreinfo: bool = True
    dump_formats: Sequence[str] = ("elf",)
    ready: str = READY
    accounts: bool = True
    crashes: bool = False
    efi_debug: bool = True
    seconds: int = 1200
    unpatched: bool = False
    live_only: bool = False


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
        "like fill, without efi=debug: the usual command line, with smaller dumps",
        do="fill:650,kdump,account,idle",
        kdump=("elf", "z"),
        efi_debug=False,
    ),
    Scenario(
        "edges",
        "several ranges: unaligned edges, one under 4 MiB, a whole unit inside a short one, neighbours",
        ranges=(
            Range(HIGH + 0x00000000, HIGH + 0x08000000),
            Range(HIGH + 0x08000000, HIGH + 0x08300000),  # 3 MiB, adjacent: accepted at once, contains a whole unit
            Range(HIGH + 0x08300000, HIGH + 0x08600000),  # adjacent, the same
            Range(HIGH + 0x0A001000, HIGH + 0x0FFFF000),  # both edges off by a page
            Range(HIGH + 0x11100000, HIGH + 0x11500000),  # 4 MiB, but off by 1 MiB: one whole unit
            Range(HIGH + 0x12000000, HIGH + 0x12200000),  # exactly one unit: accepted at once
            Range(HIGH + 0x14000000, HIGH + 0x14400000),  # two units: the shortest range that stays unaccepted
            Range(HIGH + 0x16200000, HIGH + 0x20000000),  # unit aligned, not chunk aligned
            Range(HIGH + 0x20000000, HIGH + 0x369FF000),  # adjacent, ends one page short, inside a byte of the bitmap
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
    Scenario(
        "nodes",
        "four nodes, and five levels of page tables",
        ranges=(Range(HIGH, HIGH + 1792 * MIB),),
        do="fill:300,kdump,account,idle",
        kdump=("z",),
        machine=FOUR_NODES,
        cpu=FIVE_LEVELS,
    ),
    Scenario("eager", "accept_memory=eager", options=("accept_memory=eager",)),
    Scenario("none", "no memory of type 15", ranges=()),
    Scenario(
        "all",
        "everything accepted: memory filled, then freed",
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
        "reservation",
        "a table that crosses into a page that kernels without 0862438c do not reserve: they die at boot",
        ranges=(*WHOLE, Range(CROSSING - 192 * MIB, CROSSING, fake=True)),
        machine=far_dimm("192M", CROSSING - 192 * MIB),
        options=(EARLY_CONSOLE,),
        ready=PANIC,
        accounts=False,
    ),
    Scenario(
        "e820ext",
        "more e820 entries than fit into boot_params: 120 islands of type 15 at 72 GiB",
        # There must be RAM above the islands: early allocations are top-down.
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
        "the oldest lines of the log, with the EFI memory map, were overwritten",
        do="chatter:4000,kdump,account,idle",
        options=("printk.devkmsg=on",),
        kdump=("z",),
    ),
    Scenario("nokaslr", "like fill, without KASLR", do="fill:650,account,idle", options=("nokaslr",)),
    Scenario("la57", "like fill, with five levels of page tables", do="fill:650,account,idle", cpu=FIVE_LEVELS),
    Scenario(
        "novmcoreinfo",
        "like fill, without QEMU's vmcoreinfo device",
        do="fill:650,account,idle",
        vmcoreinfo=False,
    ),
    Scenario(
        "panic",
        "accepting fails: dies with `Cannot accept memory: unknown platform`, dumped by QEMU",
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
        "dumped while two nodes accept memory; each accept takes a second",
        ranges=ON_BOTH_NODES,
        do="account,delay:1000000,spin,accepting,idle",
        machine=TWO_NODES,
    ),
    Scenario(
        "early",
        "stopped in early boot: no VMCOREINFO yet, struct pages not yet initialised",
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
        "stress",
        "for `live`: 5 GiB, nearly all unaccepted; three CPUs, of which two can accept while the third looks",
        ranges=(Range(HIGH, HIGH + 5 * GIB - 128 * MIB),),
        do="idle",
        machine=("-machine", "q35,max-ram-below-4g=512M", "-m", "5632M", "-smp", "3"),
        live_only=True,
    ),
    Scenario(
        "stock-panic",
        "an unmodified kernel that the loader does not change: it cannot accept memory and dies after a second",
        options=(EARLY_CONSOLE,),
        do="idle",
        ready=PANIC,
        accounts=False,
        efi_debug=False,
        unpatched=True,
    ),
)

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
