# SPDX-License-Identifier: LGPL-2.1-or-later
"""A drgn program without a kernel: bytes at physical addresses, and the types and globals that point to them.

Structures are as in the headers of Linux 6.12, ``struct boot_params`` at the offsets that the boot protocol gives
(Documentation/arch/x86/boot.rst and zero-page.rst).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Optional, Union

import drgn
from drgn import Type, TypeMember

from .allocator_program import MadeProgram

#: Where physical address 0 is mapped.
DIRECT_MAP = 0xFFFF888000000000
#: The kernel image, virtual and physical; the virtual address is relocated by KASLR.
IMAGE_VIRT, IMAGE_PHYS, IMAGE_BYTES = 0xFFFFFFFF9A000000, 0x0F000000, 0x01A00000
#: From ABI: struct setup_data.type.
SETUP_E820_EXT, SETUP_EFI, SETUP_RNG_SEED, SETUP_INDIRECT = 1, 4, 9, 1 << 31
#: Entries in struct e820_table here: NODES_SHIFT 6.
E820_MAX_ENTRIES = 128 + 3 * 64

#: Structures, one a line: name, bytes, then offset, type and name of each member.
_LAYOUT = f"""
boot_e820_entry 20 0 u64 addr 8 u64 size 16 u32 type
efi_info 32 0 u32 efi_loader_signature 8 u32 efi_memdesc_size \
 16 u32 efi_memmap 20 u32 efi_memmap_size 28 u32 efi_memmap_hi
setup_header 0x7b 0x27 u32 ramdisk_image 0x2b u32 ramdisk_size 0x5f u64 setup_data
boot_params 4096 0xc0 u32 ext_ramdisk_image 0xc4 u32 ext_ramdisk_size 0x1c0 efi_info efi_info 0x1e8 u8 e820_entries \
 0x1f1 setup_header hdr 0x2d0 boot_e820_entry[128] e820_table
e820_entry 20 0 u64 addr 8 u64 size 16 u32 type
e820_table {4 + 20 * E820_MAX_ENTRIES} 0 u32 nr_entries 4 e820_entry[{E820_MAX_ENTRIES}] entries
efi_memory_map 56 0 u64 phys_map 24 s32 nr_map 40 u64 desc_size
efi 200 64 efi_memory_map memmap 192 u64 flags
kexec_segment 32 8 u64 bufsz 16 u64 mem 24 u64 memsz
kimage 1024 56 u64 nr_segments 64 kexec_segment[16] segment
atomic_long 8 0 s64 counter
prb_data_blk_lpos 16 0 u64 begin 8 u64 next
prb_desc 24 0 atomic_long state_var 8 prb_data_blk_lpos text_blk_lpos
printk_info 88 16 u16 text_len 18 u8 facility
prb_desc_ring 48 0 u32 count_bits 8 prb_desc* descs 16 printk_info* infos 24 atomic_long head_id 32 atomic_long tail_id
prb_data_ring 32 0 u32 size_bits 8 char* data
printk_ringbuffer 88 0 prb_desc_ring desc_ring 48 prb_data_ring text_data_ring
"""

_BOOT_PARAMS_BYTES = 4096


class FirmwareProgram(MadeProgram):
    """Put things into memory with the methods, then use :attr:`prog`."""

    def __init__(self) -> None:
        super().__init__()
        #: Physical address to bytes. Nothing else is captured.
        self.memory: dict[int, bytes] = {}
        #: Bytes that were read, over all.
        self.bytes_read = 0
        self.symbols = {"_text": IMAGE_VIRT, "_end": IMAGE_VIRT + IMAGE_BYTES}
        phys_base = IMAGE_PHYS - (IMAGE_VIRT - 0xFFFFFFFF80000000)
        self.vmcoreinfo |= {"NUMBER(phys_base)": str(phys_base), "KERNELOFFSET": "19000000"}
        lines = map(str.split, _LAYOUT.strip().splitlines())
        self.structs = {name: members for name, *members in lines}
        self._next = 0x0F100000  # where place() puts things
        self._boot_params = bytearray(_BOOT_PARAMS_BYTES)
        self._boot_params[0x202:0x206] = b"HdrS"

        self.prog.add_memory_segment(0, 1 << 52, self._read, physical=True)
        self.prog.add_memory_segment(DIRECT_MAP, 1 << 46, self._read, physical=False)
        self.boot_params_at = self.place(bytes(self._boot_params))
        self.globals["boot_params"] = ("boot_params", DIRECT_MAP + self.boot_params_at)
        self.set_number("efi_setup", 0)

    # --- memory ---

    def place(self, data: bytes, address: Optional[int] = None) -> int:
        """Put bytes somewhere, or at a physical address, which is returned."""
        if address is None:
            address = self._next
            self._next += len(data) + 4095 & ~4095
        self.memory[address] = data
        return address

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        self.bytes_read += count
        for start, data in self.memory.items():
            if start <= offset and offset + count <= start + len(data):
                return data[offset - start : offset - start + count]
        raise drgn.FaultError("could not find memory segment", address)

    # --- boot_params ---

    def set_boot_params(self, offset: int, format_: str, *values: Union[int, bytes]) -> None:
        """Change ``boot_params`` at a documented offset."""
        struct.pack_into(f"<{format_}", self._boot_params, offset, *values)
        self.memory[self.boot_params_at] = bytes(self._boot_params)

    def set_efi_info(self, address: int, size: int, stride: int = 48, signature: bytes = b"EL64") -> None:
        """``boot_params.efi_info``"""
        self.set_boot_params(0x1C0, "4s", signature)
        self.set_boot_params(0x1C8, "II", stride, 1)
        self.set_boot_params(0x1D0, "II", address & 0xFFFFFFFF, size)
        self.set_boot_params(0x1DC, "I", address >> 32)

    def set_setup_data(self, entries: Iterable[tuple[int, int, bytes]]) -> None:
        """``boot_params.hdr.setup_data``: a chain of (physical address, type, data)."""
        entries = list(entries)
        self.set_boot_params(0x250, "Q", entries[0][0])
        following = [entry[0] for entry in entries[1:]] + [0]
        for (address, type_, data), next_ in zip(entries, following):
            self.place(struct.pack("<QII", next_, type_, len(data)) + data, address)

    # --- globals ---

    def set_number(self, name: str, value: int) -> None:
        """``u64 name``"""
        self.set_struct(name, "u64", struct.pack("<Q", value))

    def set_pointer(self, name: str, type_name: str, target: Optional[int]) -> None:
        """``struct type_name *name``, to a physical address or NULL."""
        self.type(type_name)  # whole: a pointer to it does not make it
        self.set_number(name, 0 if target is None else DIRECT_MAP + target)
        self.globals[name] = (f"{type_name}*", self.globals[name][1])

    def set_struct(self, name: str, type_name: str, data: bytes) -> None:
        """``struct type_name name``"""
        self.globals[name] = (type_name, DIRECT_MAP + self.place(data))

    # --- types ---

    def _make_struct(self, name: str, members: list[str]) -> Type:
        size, *words = members
        made = [
            TypeMember(self.type(type_), member, int(at, 0) * 8)
            for at, type_, member in zip(words[::3], words[1::3], words[2::3])
        ]
        return self.prog.struct_type(name, int(size, 0), made)
