# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the patch with which the loader turns an unmodified kernel into one that accepts memory without TDX or SNP.

In `accept_memory()` the kernel asks `cc_platform_has(CC_ATTR_GUEST_SEV_SNP)`. If not, it dies of "Cannot accept
memory: unknown platform"; if so, it calls `snp_accept_memory()`. The patch removes the branch to the panic and lets the
call end in code of ours (loader/record.S) between the end of the kernel's text and the end of its page. All is found in
the image itself, from the words of the panic backwards; symbols are not needed.
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .shell import LabError, run

PANIC_WORDS = b"Cannot accept memory: unknown platform\n\0"
PAGE = 4096
RECORD = Path(__file__).parent / "loader/record.S"
#: How the payload of a bzImage begins, and the command that unpacks it.
PACKERS = {
    b"\x1f\x8b": "gzip -dc",
    b"\xfd7zXZ": "xz -dc",
    b"\x28\xb5\x2f\xfd": "zstd -dc",
    b"\x02!L\x18": "lz4 -dc",
    b"BZh": "bzip2 -dc",
    b"\x5d\0\0": "xz --format=lzma -dc",
    b"\x89LZO": "lzop -dc",
}
#: mov edi, CC_ATTR_GUEST_SEV_SNP; call cc_platform_has; test al, al; je; the arguments; call snp_accept_memory
SITE = re.compile(
    rb"\xbf.\0\0\0\xe8....\x84\xc0(?P<je>\x74.|\x0f\x84....)"
    rb"(?:[\x48\x4c]\x89[\xc0-\xff]|\x48\x8b[\x74\x7c]\x24.|\x48\x8b[\x34\x3c]\x24|\x48\x8b[\x75\x7d].){0,4}"
    rb"\xe8(?P<call>....)",
    re.DOTALL,
)


class CannotPatch(LabError):
    """What the lab does not find in a kernel."""


def unpack(image: Path, into: Path) -> str:
    """Write the vmlinux of a bzImage, or of an EFI image with one in its section .linux. Return its release."""
    data = image.read_bytes()
    if data[0x202:0x206] != b"HdrS":
        with tempfile.NamedTemporaryFile() as inner:
            run(["objcopy", "-O", "binary", "--only-section=.linux", image, inner.name], timeout=60)
            data = Path(inner.name).read_bytes()
    if data[0x202:0x206] != b"HdrS" or struct.unpack_from("<H", data, 0x206)[0] < 0x20F:
        raise LabError(f"{image}: neither an x86 bzImage nor an EFI image that contains one")
    version = 0x200 + struct.unpack_from("<H", data, 0x20E)[0]
    start, size = struct.unpack_from("<II", data, 0x248)
    start += ((data[0x1F1] or 4) + 1) * 512
    payload = data[start : start + size]
    for magic, command in PACKERS.items():
        if payload.startswith(magic):
            # All formats but gzip's are followed by the unpacked size.
            with tempfile.NamedTemporaryFile() as packed:
                packed.write(payload if magic == b"\x1f\x8b" else payload[:-4])
                packed.flush()
                run(["sh", "-c", f'{command} <"$1" >"$2"', "sh", packed.name, into], timeout=120)
            break
    else:
        raise LabError(f"{image}: its payload is packed in a way that the lab does not know: {payload[:6].hex()}")
    return data[version : data.index(b"\0", version)].decode().split()[0]


@dataclass(frozen=True)
class Section:
    name: str
    writable: bool
    executable: bool
    address: int
    offset: int
    size: int
    in_file: bool

    @property
    def end(self) -> int:
        return self.address + self.size

    def of(self, elf: bytes) -> bytes:
        return elf[self.offset : self.offset + self.size]


def sections(elf: bytes) -> list[Section]:
    """The sections that are in the kernel's memory, by address, without those of an address of their own (per CPU)."""
    if elf[:5] != b"\x7fELF\x02":
        raise CannotPatch("the unpacked kernel is no ELF file of 64 bits")
    table, count, names = (
        struct.unpack_from("<Q", elf, 40)[0],
        struct.unpack_from("<H", elf, 60)[0],
        struct.unpack_from("<H", elf, 62)[0],
    )
    headers = [struct.unpack_from("<IIQQQQ", elf, table + 64 * i) for i in range(count)]
    if names >= count:
        raise CannotPatch("the unpacked kernel has no section headers")
    found = []
    for name, kind, flags, address, offset, size in headers:
        start = headers[names][4] + name
        text = elf[start : elf.index(b"\0", start)].decode()
        if flags & 2 and address >> 63:
            found.append(Section(text, bool(flags & 1), bool(flags & 4), address, offset, size, kind != 8))
    return sorted(found, key=lambda section: section.address)


def patch(vmlinux: Path) -> str:
    """Return the contents of the file that the loader reads.

    :raises CannotPatch: what the lab does not find in this kernel
    """
    elf = vmlinux.read_bytes()
    loaded = sections(elf)
    names = [section.name for section in loaded]
    text = loaded[names.index(".text")]
    code = text.of(elf)
    site = _site(code, text.address, _panic_words(elf, loaded))
    if code.count(site[0]) != 1:
        raise CannotPatch(f"the bytes of accept_memory() are in the kernel {code.count(site[0])} times, not once")

    lock = _unused_data(loaded)
    # 6.17 has a section .head.text behind .text.
    *_, last = (section for section in loaded[: names.index(".rodata")] if section.executable)
    filler = len(last.of(elf)) - len(last.of(elf).rstrip(b"\xcc"))
    hole = last.end - filler + 15 & ~15
    room = -(-last.end // PAGE) * PAGE - hole
    record = _record(hole, lock)
    if len(record) > room:
        raise CannotPatch(
            f"{room} bytes are free behind the kernel's text, and the record of accepts needs {len(record)}"
        )
    start = text.address + code.index(site[0])
    je, call = start + site.start("je") - site.start(), start + site.start("call") - site.start()
    edits = {
        je: (site["je"], _nops(len(site["je"]))),
        call: (site["call"], struct.pack("<i", hole - (call + 4))),
        hole: (elf[last.offset + hole - last.address :][: len(record)], record),
    }
    lines = [f"find {site[0].hex()}"]
    for address, (old, new) in edits.items():
        distance = address - start
        lines.append(f"at {'-' if distance < 0 else ''}{abs(distance):#x} {old.hex()} {new.hex()}")
    return "\n".join(lines) + "\n"


def _panic_words(elf: bytes, loaded: Sequence[Section]) -> int:
    """The address of the panic's words."""
    found = [match.start() for match in re.finditer(re.escape(PANIC_WORDS), elf)]
    if len(found) != 1:
        raise CannotPatch(
            f'"{PANIC_WORDS[:-2].decode()}" is in the kernel {len(found)} times, not once: '
            "it needs CONFIG_UNACCEPTED_MEMORY"
        )
    for section in loaded:
        if section.in_file and section.offset <= found[0] < section.offset + section.size:
            return section.address + found[0] - section.offset
    raise CannotPatch("the words of accept_memory()'s panic are in no section")


def _site(code: bytes, base: int, words: int) -> re.Match[bytes]:
    """The one place where "not SNP" leads to the panic."""
    load = b"\x48\xc7\xc7" + struct.pack("<I", words & 0xFFFFFFFF)
    blocks = [match.start() for match in re.finditer(re.escape(load), code)]
    if len(blocks) != 1:
        raise CannotPatch(f"the panic of accept_memory() is loaded {len(blocks)} times, not once")
    # The compiler can put it far away, and a jump to it where the branch goes.
    leads_there = {*blocks, *_jumps(code, blocks[0])}
    found = []
    for match in SITE.finditer(code):
        if _destination(match, "je") in leads_there:
            found.append(match)
    if len(found) != 1:
        raise CannotPatch(
            f"accept_memory() at or before {base + blocks[0]:#x} calls snp_accept_memory() in {len(found)} places that "
            "the lab knows, not one: it needs CONFIG_AMD_MEM_ENCRYPT"
        )
    return found[0]


def _jumps(code: bytes, target: int) -> Iterator[int]:
    for match in re.finditer(rb"(?=(?P<jmp>\xe9....|\xeb.))", code, re.DOTALL):
        if _destination(match, "jmp") == target:
            yield match.start()


def _destination(match: re.Match[bytes], group: str) -> int:
    """Where a jump leads, whose distance has 1 or 4 bytes."""
    distance = match[group][1:] if len(match[group]) == 2 else match[group][-4:]
    return match.end(group) + int.from_bytes(distance, "little", signed=True)


def _unused_data(loaded: Sequence[Section]) -> int:
    """The address of 4 bytes of writable data that stay in memory and that belong to no section."""
    names = [section.name for section in loaded]
    # What follows is freed after boot.
    kept = slice(names.index(".data"), names.index(".init.text"))
    for section, following in zip(loaded[kept], loaded[kept.start + 1 :]):
        address = section.end + 7 & ~7
        if section.writable and address + 8 <= min(following.address, -(-section.end // PAGE) * PAGE):
            return address
    raise CannotPatch("the kernel's data has no gap of 4 bytes for the lock of the record of accepts")


def _record(address: int, lock: int) -> bytes:
    """Assemble the record of accepts for this address."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "record"
        link = f"-Wl,-Ttext={address:#x},--defsym=lab_lock={lock:#x},--oformat=binary,--build-id=none"
        run(["gcc", "-nostdlib", "-static", "-no-pie", link, "-o", out, RECORD], timeout=60)
        return out.read_bytes()


def _nops(count: int) -> bytes:
    return {2: b"\x66\x90", 6: b"\x66\x0f\x1f\x44\0\0"}[count]
