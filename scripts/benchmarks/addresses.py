# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve`` of a million addresses against a test_bit loop in drgn: the look-up, one process, whole programs."""

from __future__ import annotations

import contextlib
import inspect
import json
import random
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import drgn
from drgn.helpers.linux.bitops import test_bit

from benchmarks import measure
from benchmarks.dump import ADDRESS, BASE, UNIT, Dump, as_in_the_lab, dump_of
from benchmarks.measure import LAB, Missing, Row, pairs, program, row, run, seconds, timed
from drgn_unaccepted import commands
from drgn_unaccepted.cli import parser
from drgn_unaccepted.model.bitmap import States
from drgn_unaccepted.snapshot import Snapshot, Table, Target

MILLION = 1_000_000

#: What a user types into a file for drgn, before :func:`print_tested`.
_LOOP_HEAD = """\
from pathlib import Path
from drgn import Object
from drgn.helpers.linux.bitops import test_bit

"""
_LOOP_TAIL = """
t = Object(prog, "struct efi_unaccepted_memory *", prog["page_offset_base"].value_() + prog["efi"].unaccepted.value_())
print_tested(Path({addresses!r}), t.bitmap, t.phys_base.value_(), t.unit_size.value_(), t.size.value_())
"""


def some_addresses(count: int, start: int, end: int) -> list[int]:
    """Physical addresses from anywhere in [start, end)."""
    random_ = random.Random(3)
    return [random_.randrange(start, end) for _ in range(count)]


def states(dump: Dump, addresses: Sequence[int]) -> bytes:
    """Ours, with the read of the bitmap and all that is made for it: 1 for an unaccepted address, 0 for another."""
    return States(dump.geometry, dump.read()).of(addresses)


def tested_bits(dump: Dump, addresses: Sequence[int]) -> list[bool]:
    """drgn's."""
    base, _, unit = dump.geometry
    bitmap = dump.bitmap
    return [test_bit((x - base) // unit, bitmap) for x in addresses]


def print_tested(addresses: Path, bitmap: drgn.Object, base: int, unit: int, size: int) -> None:
    end = base + 8 * size * unit
    with addresses.open() as file:
        for line in file:
            x = int(line, 16)
            is_set = base <= x < end and test_bit((x - base) // unit, bitmap)
            print(hex(x), "unaccepted" if is_set else "accepted")


def print_ours(dump: Dump, addresses: Path) -> None:
    """``resolve -f``, from the read of the table on."""
    geometry = dump.geometry
    table = Table(
        "present",
        None,
        ADDRESS,
        1,
        geometry.unit_size,
        geometry.phys_base,
        geometry.bitmap_bytes,
        dump.read(),
        "physical",
    )
    snapshot = Snapshot(Target("vmcore", None, None, None, "none", ""), table)
    args = parser().parse_args(["resolve", "-f", str(addresses)], Namespace(**commands.DEFAULTS))
    question = commands.COMMANDS["resolve"]
    assert isinstance(question, commands.Question)
    commands.print_answer(commands.ask(question, snapshot, args), args)


def print_others(dump: Dump, addresses: Path) -> None:
    """drgn's."""
    base, size, unit = dump.geometry
    print_tested(addresses, dump.bitmap, base, unit, size)


def printed(work: Callable[[Dump, Path], None], dump: Dump, addresses: Path, output: Path) -> None:
    with output.open("w") as out, contextlib.redirect_stdout(out):
        work(dump, addresses)


def said(output: Path) -> list[list[str]]:
    """Address and state of each line, of either."""
    lines = (line.split() for line in output.read_text().splitlines())
    return [words[:2] for words in lines if words and words[0].startswith("0x")]


@contextlib.contextmanager
def file_of(addresses: Sequence[int]) -> Iterator[Path]:
    """A directory with the addresses in it, one a line."""
    with TemporaryDirectory(prefix="bench-addresses-") as directory:
        (Path(directory) / "addresses").write_text("".join(f"{address:#x}\n" for address in addresses))
        yield Path(directory)


def look_up(runs: int = 3, count: int = MILLION) -> list[Row]:
    """the states of a million addresses in a list, in a guest of 1 TiB"""
    with dump_of(as_in_the_lab((1 << 40) // UNIT // 8)) as dump:
        addresses = some_addresses(count, BASE, dump.geometry.end)
        both = pairs(timed(lambda: states(dump, addresses)), timed(lambda: tested_bits(dump, addresses)), runs)
    return [row("states of 1,000,000 addresses, 1 TiB / test_bit loop", both, 0.02)]


def in_one_process(runs: int = 3, count: int = MILLION) -> list[Row]:
    """from a file of a million addresses to printed lines, in a guest of 1 TiB, both in this process"""
    terabyte = as_in_the_lab((1 << 40) // UNIT // 8)
    some = some_addresses(count, BASE, BASE + 8 * len(terabyte) * UNIT)
    with dump_of(terabyte) as dump, file_of(some) as directory:
        of, out = directory / "addresses", directory / "out"
        both = pairs(
            timed(lambda: printed(print_ours, dump, of, out)),
            timed(lambda: printed(print_others, dump, of, out)),
            runs,
        )
    return [row("resolve -f of 1,000,000 to lines, 1 TiB / test_bit loop", both, 0.02)]


def whole_programs(runs: int = 3, count: int = MILLION) -> list[Row]:
    """the same as two programs on a capture of the lab, drgn with the vmlinux of its kernel"""
    capture = LAB / "captures" / "6.12" / "fill"
    if not (capture / "scenario.json").exists():
        raise Missing("no capture with a vmlinux beside it: scripts/lab run fill --kernel 6.12")
    vmlinux = Path(json.loads((capture / "scenario.json").read_text())["kernel"]["vmlinux"])
    if not vmlinux.exists():
        raise Missing(f"{vmlinux} is gone: scripts/lab run fill --kernel 6.12")
    dump = capture / "dump.elf"
    with file_of(some_addresses(count, BASE, BASE + (1 << 30))) as directory:
        of, loop = directory / "addresses", directory / "loop.py"
        source = inspect.getsource(print_tested).replace(": drgn.Object", "")
        loop.write_text(_LOOP_HEAD + source + _LOOP_TAIL.format(addresses=str(of)))
        ours = program("-c", str(dump), "resolve", "-f", str(of))
        other = measure.drgn(dump, "-s", str(vmlinux), str(loop))
        both = pairs(lambda: run(ours, directory / "ours"), lambda: run(other, directory / "other"), runs)
        if said(directory / "ours") != said(directory / "other"):
            raise Missing("the two programs do not say the same")
    return [row("resolve -f of 1,000,000, whole programs / drgn with test_bit loop", seconds(both), 0.02)]
