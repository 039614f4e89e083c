# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lab changes in an unmodified kernel, found in a small program with the same instructions; its account."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from guest import account, binary
from guest.shell import LabError

#: As GCC lays accept_memory() out: the panic far away in the cold part, and a jump to it where the branch goes.
KERNEL = """
        .text
cold:   movq $words, %rdi
        call panic
panic:  ret
accept: movl $5, %edi
        call cc_platform_has
        testb %al, %al
je:     je 1f
        movq 8(%rsp), %rsi
        movq %r12, %rdi
call:   call snp_accept_memory
        ret
1:      jmp cold
cc_platform_has: ret
snp_accept_memory: ret
        .section .head.text, "ax"; ret
        .balign 8, 0xcc
text_end:
        .section .rodata
        .zero 0x28  # "(", which means something in a regular expression
words:  .asciz "Cannot accept memory: unknown platform\\n"
        .data
        .quad 1
data:
        .section .init.text, "ax"
        ret
"""
PLACES = {".text": 0, ".head.text": 0x800, ".rodata": 0x2000, ".data": 0x4000, ".init.text": 0x5000}


def build(tmp_path: Path, source: str) -> tuple[Path, dict[str, int]]:
    """The program as an ELF file at a kernel's addresses, and the addresses of its symbols."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc: scripts/lab setup installs it")
    (tmp_path / "kernel.S").write_text(source)
    out = tmp_path / "vmlinux"
    flags = [f"-Wl,--section-start={name}={0xFFFFFFFF81000000 + place:#x}" for name, place in PLACES.items()]
    flags += ["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-z,max-page-size=4096"]
    subprocess.run(["gcc", *flags, "-o", out, tmp_path / "kernel.S"], check=True, capture_output=True)
    symbols = subprocess.run(["nm", "--defined-only", out], check=True, capture_output=True, text=True).stdout
    return out, {name: int(address, 16) for address, _, name in map(str.split, symbols.splitlines())}


def test_the_branch_goes_and_the_call_ends_behind_the_text(tmp_path: Path) -> None:
    vmlinux, at = build(tmp_path, KERNEL)
    find, *edits = binary.patch(vmlinux).splitlines()
    changed = {at["accept"] + int(line.split()[1], 16): line.split()[2:] for line in edits}
    hole = at["text_end"] + 15 & ~15
    assert list(changed) == [at["je"], at["call"] + 1, hole]
    assert find.startswith("find bf05000000e8")
    assert changed[at["je"]][1] == "6690"
    assert at["call"] + 5 + struct.unpack("<i", bytes.fromhex(changed[at["call"] + 1][1]))[0] == hole
    # The lock lies in the gap behind .data: lock bts at 5, 9 bytes long, its distance before the last byte.
    distance = struct.unpack_from("<i", bytes.fromhex(changed[hole][1]), 9)[0]
    assert hole + 14 + distance == at["data"] + 7 & ~7


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("unknown platform", "known platform", "0 times, not once: it needs CONFIG_UNACCEPTED_MEMORY"),
        ("words:", 'other: .asciz "Cannot accept memory: unknown platform\\n"\nwords:', "2 times, not once"),
        ("testb %al, %al", "cmpb $0, %al", "in 0 places that the lab knows, not one: it needs CONFIG_AMD_MEM_ENCRYPT"),
        (".quad 1", ".zero 4096", "no gap of 4 bytes"),
        (".balign 8, 0xcc", ".zero 2040", "bytes are free behind the kernel's text"),
    ],
)
def test_a_kernel_that_is_otherwise_is_refused_with_what_it_lacks(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    vmlinux, _ = build(tmp_path, KERNEL.replace(old, new))
    with pytest.raises(LabError, match=reason):
        binary.patch(vmlinux)


def test_of_an_account_that_came_twice_the_last_counts(tmp_path: Path) -> None:
    """Files of /proc can be read-only, which stops all but root from writing them again."""
    serial = b"the firmware's words"
    for text in b"first", b"last":
        with io.BytesIO() as packed, tarfile.open(fileobj=packed, mode="w") as archive:
            for name, kind in ("guest", tarfile.DIRTYPE), ("guest/zoneinfo", tarfile.REGTYPE):
                member = tarfile.TarInfo(name)
                member.type, member.mode, member.size = kind, 0o500, len(text) * (kind == tarfile.REGTYPE)
                archive.addfile(member, io.BytesIO(text))
            archive.close()
            serial += packed.getvalue()
    account.unpack(serial, tmp_path)
    found = tmp_path / "guest" / "zoneinfo"
    assert found.read_bytes() == b"last" and found.stat().st_mode & 0o600 == 0o600
