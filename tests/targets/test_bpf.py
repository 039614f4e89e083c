# SPDX-License-Identifier: LGPL-2.1-or-later
"""The BPF reader against this machine's own kernel, where it may be used; its words where it may not."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from drgn_unaccepted.kernel import acpi
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.targets import bpf, privileges
from drgn_unaccepted.targets.errors import Unavailable

# CPU_ENTRY_AREA_RO_IDT of arch/x86/include/asm/pgtable_areas.h: the read-only alias of the interrupt descriptor table
# has the same address in every x86-64 kernel, KASLR or not.
IDT = 0xFFFFFE0000000000
PACKAGE = Path(bpf.__file__).parents[1]


@pytest.fixture(scope="module")
def reader() -> bpf.KernelReader:
    try:
        return bpf.KernelReader()
    except Unavailable as error:
        pytest.skip(f"no BPF here: {error}")


def gate_address(gate: bytes) -> int:
    """Where a 64-bit gate descriptor leads (Intel SDM volume 3, figure 7-8)."""
    low, _selector, _attributes, middle, high, _reserved = struct.unpack("<HHHHII", gate)
    return int(low | middle << 16 | high << 32)


def test_reads_the_interrupt_descriptor_table_and_code(reader: bpf.KernelReader) -> None:
    for vector in range(32):
        gate = reader.read(IDT, 4096)[16 * vector : 16 * vector + 16]
        assert gate[2:4] == b"\x10\x00", "__KERNEL_CS"
        assert gate[5] & 0x8F in (0x8E, 0x8F), "present, interrupt or trap gate"
        assert gate_address(gate) >= 0xFFFFFFFF80000000, "kernel text"
    text, size = gate_address(reader.read(IDT, 16)) & ~0xFFF, 3 * bpf.CHUNK + 123
    whole = reader.read(text, size)
    pieces = [reader.read(text + offset, min(4999, size - offset)) for offset in range(0, size, 4999)]
    assert whole == b"".join(pieces) and len(whole) == size
    assert len(set(whole)) > 200, "code, not a repeated byte"
    assert reader.read(text, 0) == b""


@pytest.mark.parametrize(
    ("address", "words"),
    (
        *((address, "no address of kernel memory (ERANGE)") for address in (0, 1 << 62)),
        # Below the CPU entry areas (0xfffffe0000000000 and half a TiB) is a hole.
        (0xFFFFFDFFFFFFF000, "not mapped (EFAULT)"),
        (IDT - 8, "not mapped (EFAULT)"),  # half of it is
    ),
)
def test_an_address_without_memory_is_a_reason(reader: bpf.KernelReader, address: int, words: str) -> None:
    with pytest.raises(Unavailable, match=re.escape(words)) as raised:
        reader.read(address, 16)
    assert f"{address:#x}" in str(raised.value)
    assert "\n" not in str(raised.value)


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_a_reader_that_goes_gives_everything_back(reader: bpf.KernelReader) -> None:
    before = open_files()
    another = bpf.KernelReader()
    another.read(IDT, 16)
    assert len(open_files()) > len(before)
    del another
    assert open_files() == before


TRY = """
from drgn_unaccepted.targets.bpf import KernelReader
from drgn_unaccepted.targets.errors import Unavailable
try:
    print(len(KernelReader().read(0xFFFFFE0000000000, 16)))
except Unavailable as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("dropped", "answer"),
    [
        ("-sys_admin", "^16$"),
        ("-sys_admin,-perfmon", r"^BPF_PROG_LOAD: .*: no bpf_probe_read_kernel\(\): this process lacks CAP_PERFMON \("),
        ("-sys_admin,-bpf", r"^BPF_MAP_CREATE: EPERM: this process lacks CAP_BPF \("),
        ("-sys_admin,-bpf,-perfmon", "^BPF_MAP_CREATE: EPERM: this process lacks CAP_BPF and CAP_PERFMON "),
    ],
)
def test_a_lacking_capability_is_named(reader: bpf.KernelReader, dropped: str, answer: str) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("capabilities are dropped with setpriv, as root")
    if "-bpf" in dropped and Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() == "0":
        pytest.skip("kernel.unprivileged_bpf_disabled is 0 here: a map needs no capability")
    argv = [setpriv, f"--bounding-set={dropped}", f"--inh-caps={dropped}", sys.executable, "-c", TRY]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert re.match(answer, done.stdout) and done.stdout.count("\n") == 1, done


class Refusing:
    """bpf(2) of a kernel that refuses one command."""

    def __init__(self, command: int, number: int, log: bytes = b"") -> None:
        self.command, self.number, self.log = command, number, log

    def __call__(self, command: int, attributes: bytearray) -> int:
        if command != self.command:
            return os.open("/dev/null", os.O_RDONLY)
        if command == 5:  # BPF_PROG_LOAD: log_size at 28, log_buf at 32 of union bpf_attr
            size, where = struct.unpack_from("=IQ", attributes, 28)
            if size:
                ctypes.memmove(where, self.log + b"\0", len(self.log) + 1)
        raise OSError(self.number, os.strerror(self.number))


def reason() -> str:
    """Why there is no reader. Its traceback, which would keep the descriptors, is gone."""
    try:
        bpf.KernelReader()
    except Unavailable as error:
        return str(error)
    raise AssertionError("there is one")


# Kernel log lines as kernel/bpf/verifier.c of Linux 6.12 and 7.3 prints them, and an older form.
CANNOT_USE = (
    b"0: R1=ctx() R10=fp0\n5: (85) call bpf_probe_read_kernel#113\n"
    b"program of this type cannot use helper bpf_probe_read_kernel#113\n"
)
MISCONFIGURED = b"kernel subsystem misconfigured func bpf_probe_read_kernel#113\n"


@pytest.mark.parametrize(
    ("refusing", "effective", "lockdown", "words"),
    [
        (Refusing(0, errno.ENOSYS), ~0, "none", "BPF_MAP_CREATE: ENOSYS: kernel without CONFIG_BPF_SYSCALL"),
        (Refusing(0, errno.EPERM), ~0, "none", "neither capabilities nor lockdown forbid it"),
        (Refusing(0, errno.ENOMEM), ~0, "none", "BPF_MAP_CREATE: ENOMEM: Cannot allocate memory"),
        (Refusing(5, errno.EINVAL), ~0, "none", "kernel before Linux 5.14, which has no BPF_PROG_TYPE_SYSCALL"),
        (Refusing(5, errno.EINVAL, CANNOT_USE), ~0, "none", "kernel without CONFIG_BPF_EVENTS"),
        (Refusing(5, errno.EFAULT, MISCONFIGURED), ~0, "integrity", "kernel without CONFIG_BPF_EVENTS"),
        (Refusing(5, errno.EINVAL, CANNOT_USE), ~0, "confidentiality", "locked down (lockdown=confidentiality)"),
        (Refusing(5, errno.EINVAL, CANNOT_USE), 1 << 39, "none", "lacks CAP_PERFMON (or CAP_SYS_ADMIN)"),
        (Refusing(5, errno.EACCES, b"R1 type=ctx\n"), ~0, None, "the verifier refuses the program: R1 type"),
    ],
)
def test_a_refusal_says_what_refuses(
    refusing: Refusing, effective: int, lockdown: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpf, "_bpf", refusing)
    monkeypatch.setattr(privileges, "_effective", lambda: effective)
    monkeypatch.setattr(bpf, "lockdown_mode", lambda: lockdown)
    before = open_files()
    said = reason()
    assert words in said and "\n" not in said
    assert open_files() == before


def test_an_unknown_machine_has_no_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "host", "7.0", "#1", "riscv64")))
    assert "riscv64" in reason()


def test_lockdown_mode(tmp_path: Path) -> None:
    path = tmp_path / "lockdown"
    assert privileges.lockdown_mode(str(path)) is None
    for text, mode in (
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("", None),
    ):
        path.write_text(text)
        assert privileges.lockdown_mode(str(path)) == mode


@pytest.mark.parametrize(
    ("address", "size", "allowed"),
    [
        *((0x7F000000, 0x1000, True), (0x7F000018, 24, True), (0x7F000FFF, 1, True), (0x7F000FFF, 2, False)),
        *((0x7EFFFFFF, 2, False), (0x100000000, 24, False), (0x7F000018, 1 << 28, False)),
    ],
)
def test_nothing_but_acpi_memory_is_read(address: int, size: int, allowed: bool) -> None:
    reader = mock.Mock(spec=bpf.KernelReader)
    memory = acpi.AcpiMemory(1 << 63, [Range(0x7F000000, 0x7F001000)], reader)
    with contextlib.nullcontext() if allowed else pytest.raises(Unavailable, match="not ACPI memory"):
        memory.read(address, size)
    assert reader.read.mock_calls == ([mock.call((1 << 63) + address, size)] if allowed else [])


def test_the_name_of_the_memory_device_stands_nowhere_in_the_package() -> None:
    # Reading it can end a confidential guest: what it maps may be unaccepted.
    device = b"/dev" + b"/mem"
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert len(files) > 20
    assert [str(path) for path in files if device in path.read_bytes()] == []
