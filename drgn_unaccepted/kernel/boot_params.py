# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct boot_params`` and the setup_data chain: what the boot loader or the EFI stub told the kernel.

``boot_params`` is part of the kernel's .bss and so in every capture; what it points to need not be.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from drgn import FaultError, Object, Program, ProgramFlags

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable

# enum in arch/x86/include/uapi/asm/setup_data.h
SETUP_E820_EXT = 1
SETUP_EFI = 4
SETUP_INDIRECT = 1 << 31

SETUP_NAMES = {
    SETUP_E820_EXT: "SETUP_E820_EXT",
    2: "SETUP_DTB",
    3: "SETUP_PCI",
    SETUP_EFI: "SETUP_EFI",
    5: "SETUP_APPLE_PROPERTIES",
    6: "SETUP_JAILHOUSE",
    7: "SETUP_CC_BLOB",
    8: "SETUP_IMA",
    9: "SETUP_RNG_SEED",
    10: "SETUP_KEXEC_KHO",
    SETUP_INDIRECT: "SETUP_INDIRECT",
}

# struct setup_data: u64 next, u32 type, u32 len, u8 data[len]. It is ABI between boot loader and kernel.
SETUP_DATA_HEADER = 16


class SetupData(NamedTuple):
    """One entry of the chain."""

    #: Physical address of the header.
    address: int
    #: ``SETUP_*``.
    type: int
    #: Bytes of data that follow the header.
    length: int

    @property
    def data(self) -> int:
        """Physical address of the data."""
        return self.address + SETUP_DATA_HEADER

    @property
    def end(self) -> int:
        return self.data + self.length


class SetupDataChain(NamedTuple):
    entries: tuple[SetupData, ...]
    #: Why the chain was not followed to its end; ``None`` when it was.
    problem: Optional[str]


def read_boot_params(prog: Program) -> Object:
    """Return a copy of ``struct boot_params boot_params``.

    :raises Unavailable: it reads as zeros
    :raises LookupError: the target has no such variable (not x86)
    :raises drgn.FaultError: it is not in the target
    """
    params = prog["boot_params"].read_()
    if not any(params.to_bytes_()):
        raise Unavailable("boot_params reads as zeros: not captured")
    return params


def read_setup_data(prog: Program, params: Object) -> SetupDataChain:
    """Follow ``boot_params.hdr.setup_data``, physical addresses of ``struct setup_data``, 0 at the end."""
    entries: list[SetupData] = []
    seen: set[int] = set()
    address = params.hdr.setup_data.value_()
    while address:
        name = f"setup_data {address:#x}"
        if address in seen:
            return SetupDataChain(tuple(entries), f"{name}: the chain comes back to it")
        if len(entries) == limits.SETUP_DATA_ENTRIES:
            return SetupDataChain(tuple(entries), f"{name}: more than {limits.SETUP_DATA_ENTRIES} entries")
        seen.add(address)
        try:
            header = read_physical(prog, address, SETUP_DATA_HEADER, name)
        except Unavailable as error:
            return SetupDataChain(tuple(entries), str(error))
        if not any(header):
            return SetupDataChain(tuple(entries), f"{name}: reads as zeros, not captured")
        length = int.from_bytes(header[12:16], "little")
        if length > limits.SETUP_DATA_BYTES:
            return SetupDataChain(tuple(entries), f"{name}: {length} bytes of data are not credible")
        entries.append(SetupData(address, int.from_bytes(header[8:12], "little"), length))
        address = int.from_bytes(header[:8], "little")
    return SetupDataChain(tuple(entries), None)


def read_physical(prog: Program, address: int, size: int, name: str) -> bytes:
    """Read physical memory that may well not be in the target.

    :param name: what lies there, with its address, for the reason
    :raises Unavailable: it is not in the target
    """
    if not 0 <= address <= limits.PHYSICAL_END - size:
        raise Unavailable(f"{name}: no physical address")
    try:
        data: bytes = prog.read(address, size, physical=True)
        return data
    except (FaultError, OSError) as error:
        # A read of /proc/kcore that the kernel refuses is an OSError.
        where = "/proc/kcore" if prog.flags & ProgramFlags.IS_LIVE else "this dump"
        raise Unavailable(f"{name}: not in {where}") from error
