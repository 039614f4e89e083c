# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the running kernel's memory through its own mapping, with a BPF program of nine instructions.

/proc/kcore leaves ACPI memory out, and with it the table (since Linux 6.6); the kernel itself has it in its direct map.
A program of type BPF_PROG_TYPE_SYSCALL (Linux kernel commit 79a7f8bdb159 ("bpf: Introduce bpf_sys_bpf() helper and
program type.") (in v5.14)) calls ``bpf_probe_read_kernel()`` into an array map that this process has mapped.
BPF_PROG_TEST_RUN runs it. It is attached to nothing and pinned nowhere, so that it goes with the process, however that
ends. A read writes only to that map, and returns an error where no memory is mapped.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Optional

from drgn_unaccepted.targets.errors import Unavailable
from drgn_unaccepted.targets.privileges import lacking, lockdown_mode

CHUNK = 64 << 10  #: Bytes of one run of the program: 8,192 words, some 10 microseconds.

# include/uapi/linux/bpf.h
_COMMANDS = {"BPF_MAP_CREATE": 0, "BPF_PROG_LOAD": 5, "BPF_PROG_TEST_RUN": 10}
_BPF_MAP_TYPE_ARRAY = 2
_BPF_PROG_TYPE_SYSCALL = 31
_BPF_F_SLEEPABLE = 1 << 4
_BPF_F_MMAPABLE = 1 << 10
_BPF_PSEUDO_MAP_VALUE = 2
_FUNC_PROBE_READ_KERNEL = 113
_LD_IMM64, _LDX_DW, _MOV_IMM, _JGT_IMM, _CALL, _EXIT = 0x18, 0x79, 0xB7, 0x25, 0x85, 0x95

_SYSCALL_BPF = 321  # of x86-64
# The kernel lends the helper to GPL-compatible programs only. Section 3 of the LGPL 2.1 lets a copy of this file be
# under the GPL.
_LICENSE = ctypes.create_string_buffer(b"GPL")
_VERIFIER_LOG_BYTES = 64 << 10
_PROBE_REASONS = {-errno.EFAULT: "not mapped (EFAULT)", -errno.ERANGE: "no address of kernel memory (ERANGE)"}


class KernelReader:
    """Reads at virtual addresses of the running kernel, without a fault and without a write.

    It is no safer than the kernel's own loads: on Intel TDX a load from memory that is mapped and not accepted ends the
    guest, and no exception table helps. Read nothing that may be unaccepted; :mod:`kernel.acpi` ensures that.

    :raises Unavailable: BPF cannot be used; the reason names what forbids it
    """

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        attributes = struct.pack("=IIIII", _BPF_MAP_TYPE_ARRAY, 4, CHUNK, 1, _BPF_F_MMAPABLE)
        self._descriptors.append(_call("BPF_MAP_CREATE", bytearray(attributes)))
        self._descriptors.append(_load_program(self._descriptors[0]))
        try:
            self._value = mmap.mmap(self._descriptors[0], CHUNK, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as error:
            raise Unavailable(f"BPF map: {error.strerror}") from None

    def __del__(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes at a kernel virtual address, in chunks; Unavailable: one is not mapped, or no kernel's."""
        parts = []
        for start in range(address, address + size, CHUNK):
            length = min(CHUNK, address + size - start)
            # struct { u64 address; u64 size; }, what the program gets
            context = ctypes.create_string_buffer(struct.pack("=QQ", start, length), 16)
            # fd, retval, data_size_in and _out, data_in, data_out, repeat, duration, ctx_size_in and _out, ctx_in
            fields = self._descriptors[1], 0, 0, 0, 0, 0, 0, 0, len(context), 0, ctypes.addressof(context)
            attributes = bytearray(struct.pack("=IIIIQQIIIIQ", *fields))
            _call("BPF_PROG_TEST_RUN", attributes)
            (status,) = struct.unpack_from("=i", attributes, 4)
            if status:
                reason = _PROBE_REASONS.get(status, status)
                raise Unavailable(f"BPF probe read of {length} bytes at {start:#x}: {reason}")
            parts.append(self._value[:length])
        return b"".join(parts)


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, dst | src << 4, offset, immediate)


def _load_program(map_: int) -> int:
    # long read(struct { u64 address; u64 size; } *r1)
    code = b"".join(
        (
            _instruction(_LDX_DW, 3, 1, 0),  # r3 = r1->address
            _instruction(_LDX_DW, 2, 1, 8),  # r2 = r1->size
            _instruction(_JGT_IMM, 2, 0, 4, CHUNK),  # if (r2 > CHUNK) goto too_big
            _instruction(_LD_IMM64, 1, _BPF_PSEUDO_MAP_VALUE, 0, map_),  # r1 = the map's value
            _instruction(0),
            _instruction(_CALL, immediate=_FUNC_PROBE_READ_KERNEL),  # r0 = bpf_probe_read_kernel(r1, r2, r3)
            _instruction(_EXIT),
            _instruction(_MOV_IMM, 0, immediate=-errno.E2BIG),  # too_big: r0 = -E2BIG
            _instruction(_EXIT),
        )
    )
    instructions = ctypes.create_string_buffer(code, len(code))
    log = ctypes.create_string_buffer(_VERIFIER_LOG_BYTES)
    # prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags
    places = ctypes.addressof(instructions), ctypes.addressof(_LICENSE), 1, len(log), ctypes.addressof(log)
    attributes = struct.pack("=IIQQIIQII", _BPF_PROG_TYPE_SYSCALL, len(code) // 8, *places, 0, _BPF_F_SLEEPABLE)
    return _call("BPF_PROG_LOAD", bytearray(attributes), log)


def _call(command: str, attributes: bytearray, log: Optional[ctypes.Array[ctypes.c_char]] = None) -> int:
    """bpf(2), or the reason why it failed; the verifier writes into ``log``."""
    try:
        return _bpf(_COMMANDS[command], attributes)
    except OSError as error:
        code = error.errno or 0
        lines = None if log is None else log.value.decode("ascii", "replace").splitlines()
        reason = _reason(code, error.strerror or "", lines)
        raise Unavailable(f"{command}: {errno.errorcode.get(code, code)}: {reason}") from None


def _bpf(command: int, attributes: bytearray) -> int:
    """bpf(2); the kernel may write into ``attributes``."""
    if os.uname().machine != "x86_64":
        raise Unavailable(f"BPF: the number of its system call on {os.uname().machine} is not known here")
    view = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result: int = ctypes.CDLL(None, use_errno=True).syscall(
        ctypes.c_long(_SYSCALL_BPF), ctypes.c_long(command), ctypes.byref(view), ctypes.c_long(len(attributes))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _reason(code: int, words: str, log: Optional[Sequence[str]]) -> str:
    """Why bpf(2) failed with this errno; ``log`` are the verifier's lines, if it is BPF_PROG_LOAD."""
    if code == errno.ENOSYS:
        return "kernel without CONFIG_BPF_SYSCALL"
    if code == errno.EPERM or (code == errno.EACCES and not log):
        nothing = "neither capabilities nor lockdown forbid it; a security module or a seccomp filter may"
        return _what_forbids() or nothing
    if not log:
        # find_prog_type() refuses before the verifier says a word.
        return words if log is None else f"{words}: kernel before Linux 5.14, which has no BPF_PROG_TYPE_SYSCALL"
    if not any(f"#{_FUNC_PROBE_READ_KERNEL}" in line for line in log):
        return f"the verifier refuses the program: {log[-1]}"
    # bpf_base_func_proto() gives the helper only to those who may use it; its prototype is a weak symbol in
    # kernel/bpf/helpers.c, and all zeros where kernel/trace/bpf_trace.c is not built.
    return f"no bpf_probe_read_kernel(): {_what_forbids() or 'kernel without CONFIG_BPF_EVENTS'}"


def _what_forbids() -> Optional[str]:
    """Why a privileged call was refused; None where this process cannot find out."""
    reasons = []
    missing = lacking("CAP_BPF", "CAP_PERFMON") if lacking("CAP_SYS_ADMIN") else []
    if missing:
        reasons.append(f"this process lacks {' and '.join(missing)} (or CAP_SYS_ADMIN), which would give the table")
    if lockdown_mode() == "confidentiality":
        reasons.append("the kernel is locked down (lockdown=confidentiality)")
    return "; ".join(reasons) or None
