# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running kernel's ACPI memory, and nothing else, through a reader of its own mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple, Union

import drgn

from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel.boot import read_e820
from drgn_unaccepted.model.e820 import ACPI
from drgn_unaccepted.model.ranges import Range, merge, subtract
from drgn_unaccepted.targets.errors import Unavailable

if TYPE_CHECKING:
    from drgn_unaccepted.targets.bpf import KernelReader


class AcpiMemory(NamedTuple):
    """Reads ACPI memory of the running kernel by physical address, through the direct map.

    It reads nothing else: memory that the firmware reported as ACPI memory was never unaccepted (the stub takes type 15
    for RAM). So a wrong size in the table's header leads to a reason, and never to a load that ends the guest.
    """

    page_offset: int
    ranges: list[Range]
    reader: KernelReader

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes at a physical address; Unavailable: not all ACPI memory, or not in the direct map."""
        if subtract([Range(address, address + size)], self.ranges):
            raise Unavailable(f"{address:#x}-{address + size:#x} is not ACPI memory by the e820 table")
        return self.reader.read(self.page_offset + address, size)


_CACHE_KEY = "drgn_unaccepted_acpi"


def acpi_reader(prog: drgn.Program, kernel_reader: Callable[[], KernelReader]) -> Callable[[int, int], bytes]:
    """:meth:`AcpiMemory.read` of the running kernel; Unavailable also where BPF cannot be used.

    The BPF program is made by the first read and lives as long as ``prog``. What forbids it does not change while a
    process runs.
    """

    def read(address: int, size: int) -> bytes:
        if _CACHE_KEY not in prog.cache:
            try:
                prog.cache[_CACHE_KEY] = _acpi_memory(prog, kernel_reader)
            except Unavailable as error:
                prog.cache[_CACHE_KEY] = str(error)
        made: Union[AcpiMemory, str] = prog.cache[_CACHE_KEY]
        if isinstance(made, str):
            raise Unavailable(made)
        return made.read(address, size)

    return read


def _acpi_memory(prog: drgn.Program, kernel_reader: Callable[[], KernelReader]) -> AcpiMemory:
    try:
        page_offset = prog["page_offset_base"].value_()
    except (LookupError, drgn.FaultError) as error:
        raise Unavailable(f"page_offset_base: {one_line(error)}") from None
    tables, missing = read_e820(prog)
    entries = tables.boot_params if tables.firmware is None else tables.firmware
    if entries is None:
        reasons = f"{missing['e820.firmware']}; {missing['e820.boot_params']}"
        raise Unavailable(f"which memory is ACPI's is not known: {reasons}")
    return AcpiMemory(page_offset, merge((e.start, e.end) for e in entries if e.type == ACPI), kernel_reader())
