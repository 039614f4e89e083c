# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walk x86-64 page tables, for what drgn cannot reach through them.

In a guest with AMD SEV every page-table entry for private memory carries the C-bit, which is not part of the address
(AMD64 Architecture Programmer's Manual, volume 2, 15.34.5). drgn 0.3.0 does not mask it. In an ELF vmcore the direct
map and kernel text have PT_LOADs and need no page tables; ``struct page``, per-CPU and vmalloc memory need them.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Callable, Optional

from drgn import FaultError, Program

from drgn_unaccepted import limits
from drgn_unaccepted.model.addresses import START_KERNEL_MAP
from drgn_unaccepted.model.ranges import PAGE_SHIFT, PAGE_SIZE, Range
from drgn_unaccepted.targets.vmcoreinfo import Vmcoreinfo, vmcoreinfo_of

_LEVEL_BITS = 9  #: Bits of an address that one level translates.
_PRESENT = 1 << 0
_LARGE = 1 << 7  #: PS: the entry maps memory itself, 2 MiB or 1 GiB of it.
_ADDRESS = (1 << 52) - PAGE_SIZE  #: Bits 12 to 51: a physical address.


class NotMapped(FaultError):  # type: ignore[misc]
    """A page table of the target says so."""


class PageTables:
    """Translates virtual addresses, with 4 levels of tables or 5 (LA57) from the physical address ``root`` on.

    :param read: ``read(address, size)`` reads physical memory, or raises FaultError
    :param encryption_mask: bits of an entry that are neither flags nor address (``sme_me_mask``)
    """

    def __init__(self, read: Callable[[int, int], bytes], root: int, levels: int = 4, encryption_mask: int = 0) -> None:
        self._read = read
        self.levels = levels
        self.root = root & _ADDRESS
        self._top = PAGE_SHIFT + _LEVEL_BITS * (levels - 1)
        self._address = _ADDRESS & ~encryption_mask
        kept = lru_cache(limits.PAGE_TABLES_KEPT)
        self._table = kept(lambda address: memoryview(read(address, PAGE_SIZE)).cast("Q"))

    def translate(self, virtual: int) -> Range:
        """Physical memory from ``virtual`` to the end of its page (4 KiB, 2 MiB or 1 GiB).

        :raises FaultError: not mapped (:class:`NotMapped`), or a table is not in the target
        """
        table = self.root
        for shift in range(self._top, PAGE_SHIFT - 1, -_LEVEL_BITS):
            try:
                entry = int(self._table(table)[virtual >> shift & 511])
            except FaultError:
                raise FaultError(f"page table at {table:#x} is not in this target", virtual) from None
            if not entry & _PRESENT:
                if not any(self._table(table)):
                    raise FaultError(f"page table at {table:#x} reads as zeros", virtual)
                raise NotMapped("not mapped by the page tables", virtual)
            if shift == PAGE_SHIFT or (entry & _LARGE and shift <= 30):
                size = 1 << shift
                start = entry & self._address & -size
                return Range(start + (virtual & size - 1), start + size)
            table = entry & self._address
        raise AssertionError("the lowest level maps pages")

    def read(self, virtual: int, size: int) -> bytes:
        """``size`` bytes of virtual memory; FaultError: a part is not mapped, or not in the target."""
        pieces, end = [], virtual + size
        while virtual < end:
            start, stop = self.translate(virtual)
            count = min(stop - start, end - virtual)
            try:
                pieces.append(self._read(start, count))
            except FaultError as error:
                raise FaultError(f"not in this target: physical {error.address:#x}", virtual) from None
            virtual += count
        return b"".join(pieces)


def kernel_page_tables(prog: Program, vmcoreinfo: Optional[Vmcoreinfo] = None) -> Optional[PageTables]:
    """The kernel's own page tables as VMCOREINFO, by default the program's, describes them; None if it does not."""
    vmcoreinfo = vmcoreinfo or vmcoreinfo_of(prog)
    root, phys_base = vmcoreinfo.symbol("swapper_pg_dir"), vmcoreinfo.number("phys_base")
    if root is None or phys_base is None:
        return None
    levels = 5 if vmcoreinfo.number("pgtable_l5_enabled") else 4
    mask = vmcoreinfo.number("sme_mask") or 0
    return PageTables(partial(prog.read, physical=True), root - START_KERNEL_MAP + phys_base, levels, mask)
