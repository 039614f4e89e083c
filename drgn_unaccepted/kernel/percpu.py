# SPDX-License-Identifier: LGPL-2.1-or-later
"""Per-CPU variables of all possible CPUs."""

from __future__ import annotations

from drgn import Program, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.probe import U64_MAX, member_offset


def cpus_in(prog: Program, name: str) -> list[int]:
    """The numbers of the CPUs in ``struct cpumask name``: ``__cpu_possible_mask``, ``__cpu_present_mask``.

    Do not use ``__cpu_online_mask``: a panic removes all CPUs but its own from it.

    :raises Unavailable: the mask is larger than any kernel's
    :raises LookupError: there is none (no CONFIG_SMP)
    :raises drgn.FaultError: not in the target
    """
    size = sizeof(prog.type("struct cpumask"))
    if size * 8 > limits.GLOBAL_ARRAY_LENGTH:
        raise Unavailable(f"struct cpumask has {size} bytes: at most {limits.GLOBAL_ARRAY_LENGTH} bits")
    bits = int.from_bytes(prog.read(prog.symbol(name).address, size), "little")
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


def possible_cpus(prog: Program) -> dict[int, int]:
    """``__per_cpu_offset[]`` of all possible CPUs, to be added to the address of a per-CPU variable.

    Without CONFIG_SMP there is one CPU, whose variables are where their symbols say.

    :raises Unavailable: a mask without CPUs
    :raises drgn.FaultError: not in the target
    """
    try:
        offsets = prog["__per_cpu_offset"].address_
    except LookupError:
        return {0: 0}
    numbers = cpus_in(prog, "__cpu_possible_mask")
    if not numbers:
        raise Unavailable("__cpu_possible_mask is empty")
    assert offsets is not None
    data = memoryview(prog.read(offsets, 8 * (numbers[-1] + 1))).cast("Q")
    return {number: data[number] for number in numbers}


def per_cpu_pointer(prog: Program, name: str, cpu_offset: int) -> int:
    """The value of a per-CPU variable that is a pointer: ``hardirq_stack_ptr``, ``current_task``.

    In Linux 6.2 to 6.14 some of them are members of one per-CPU variable, ``pcpu_hot``.

    :raises LookupError: the kernel has no such variable
    :raises drgn.FaultError: not in the target
    """
    try:
        address = _symbol(prog, "pcpu_hot") + member_offset(prog, "struct pcpu_hot", name)
    except LookupError:
        address = _symbol(prog, name)
    return int(prog.read_u64(address + cpu_offset & U64_MAX))


def _symbol(prog: Program, name: str) -> int:
    try:
        address = prog[name].address_
    except LookupError:
        address = None
    return int(prog.symbol(name).address if address is None else address)
