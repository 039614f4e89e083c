# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve -f`` against a test_bit loop in drgn: from a file to printed lines in one process, and whole programs.

The loops are what a user would type who has a vmlinux: one as the kernel itself writes it, with a drgn object for each
field of the table, and one that reads these fields once.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import random
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import drgn
from drgn.helpers.linux.bitops import test_bit

from benchmarks import measure
from benchmarks.dump import ADDRESS, Dump
from benchmarks.measure import LAB, Missing, Row, pairs, program, row, run, seconds
from drgn_unaccepted import commands
from drgn_unaccepted.cli import parser
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.snapshot import Snapshot, Table, Target

MILLION = 1_000_000

#: What a user types into a file for drgn around :func:`table_of` and :func:`print_tested`.
_LOOP_HEAD = """\
import drgn
from pathlib import Path
from drgn.helpers.linux.bitops import test_bit

"""
_LOOP_TAIL = """
print_tested(Path({addresses!r}), table_of(prog))
"""


class Capture(NamedTuple):
    """A whole dump of a guest of the lab, and the vmlinux of its kernel."""

    dump: Path
    vmlinux: Path


def some_addresses(count: int, start: int, end: int) -> list[int]:
    """Physical addresses from anywhere in [start, end)."""
    random_ = random.Random(3)
    return [random_.randrange(start, end) for _ in range(count)]


def print_tested(addresses: Path, table: drgn.Object) -> None:
    """For addresses that the bitmap covers."""
    with addresses.open() as file:
        for line in file:
            x = int(line, 16)
            is_set = test_bit((x - table.phys_base) / table.unit_size, table.bitmap)
            print(hex(x), "unaccepted" if is_set else "accepted")


def print_tested_once(addresses: Path, bitmap: drgn.Object, geometry: Geometry) -> None:
    """The fields of the table are in ``geometry``."""
    base, _, unit = geometry
    end = geometry.end
    with addresses.open() as file:
        for line in file:
            x = int(line, 16)
            is_set = base <= x < end and test_bit((x - base) // unit, bitmap)
            print(hex(x), "unaccepted" if is_set else "accepted")


def print_ours(addresses: Path, geometry: Geometry, read: Callable[[], bytes]) -> None:
    """``resolve -f``, from the read of the bitmap on."""
    base, size, unit = geometry
    table = Table("present", None, ADDRESS, 1, unit, base, size, read(), "physical")
    snapshot = Snapshot(Target("vmcore", None, None, None, "none", ""), table)
    args = parser().parse_args(["resolve", "-f", str(addresses)], Namespace(**commands.DEFAULTS))
    question = commands.COMMANDS["resolve"]
    assert isinstance(question, commands.Question)
    commands.print_answer(commands.ask(question, snapshot, args), args)


def of_dump(dump: Dump, addresses: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Ours and drgn's, on a dump of one bitmap."""
    return (
        lambda: print_ours(addresses, dump.geometry, dump.read),
        lambda: print_tested_once(addresses, dump.bitmap, dump.geometry),
    )


def printed(work: Callable[[], None], output: Path) -> float:
    """The seconds that it takes to print to a new file."""
    output.unlink(missing_ok=True)
    start = time.perf_counter()
    with output.open("w") as out, contextlib.redirect_stdout(out):
        work()
    return time.perf_counter() - start


def said(output: Path) -> Iterator[list[str]]:
    """Address and state of each line, of either."""
    with output.open() as lines:
        for line in lines:
            if line.startswith("0x"):
                yield line.split()[:2]


@contextlib.contextmanager
def file_of(addresses: Sequence[int], times: int = 1) -> Iterator[Path]:
    """A directory with a file ``addresses`` in it: one a line, and all of them as many times."""
    with TemporaryDirectory(prefix="bench-addresses-") as directory:
        with (Path(directory) / "addresses").open("w") as file:
            text = "".join(f"{address:#x}\n" for address in addresses)
            for _ in range(times):
                file.write(text)
        yield Path(directory)


def capture_of_lab() -> Capture:
    """
    :raises Missing: the lab has not made it
    """
    capture = LAB / "captures" / "6.12" / "fill"
    if not (capture / "scenario.json").exists():
        raise Missing("no capture with a vmlinux beside it: scripts/lab run fill --kernel 6.12")
    vmlinux = Path(json.loads((capture / "scenario.json").read_text())["kernel"]["vmlinux"])
    if not vmlinux.exists():
        raise Missing(f"{vmlinux} is gone: scripts/lab run fill --kernel 6.12")
    return Capture(capture / "dump.elf", vmlinux)


def program_of(capture: Capture) -> drgn.Program:
    """A dump, as drgn has it with a vmlinux."""
    prog = drgn.Program()
    prog.set_core_dump(capture.dump)
    prog.load_debug_info([capture.vmlinux])
    return prog


def table_of(prog: drgn.Program) -> drgn.Object:
    """``struct efi_unaccepted_memory *``"""
    address = prog["page_offset_base"].value_() + prog["efi"].unaccepted.value_()
    return drgn.Object(prog, "struct efi_unaccepted_memory *", address)


def in_one_process(runs: int = 3, count: int = MILLION) -> list[Row]:
    """from a file of a million addresses to printed lines, on a dump of the lab, both in this process"""
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise Missing("numpy is not installed: scripts/venv bulk") from None
    table = table_of(program_of(capture_of_lab()))
    geometry = Geometry(table.phys_base.value_(), table.size.value_(), table.unit_size.value_())
    read = partial(table.prog_.read, table.bitmap.address_, geometry.bitmap_bytes)
    with file_of(some_addresses(count, geometry.phys_base, geometry.end)) as directory:
        of = directory / "addresses"

        def ours() -> float:
            return printed(lambda: print_ours(of, geometry, read), directory / "ours")

        def loop() -> float:
            return printed(lambda: print_tested(of, table), directory / "loop")

        def once() -> float:
            return printed(lambda: print_tested_once(of, table.bitmap, geometry), directory / "once")

        name = f"resolve -f of {count:,} to lines / test_bit loop"
        rows = [
            row(name, pairs(ours, loop, runs), 0.02),
            row(f"{name}, fields read once", pairs(ours, once, runs), 0.02),
        ]
        for other in ("loop", "once"):
            _hold(directory / "ours", directory / other)
    return rows


def whole_programs(runs: int = 1, count: int = 10 * MILLION) -> list[Row]:
    """ten million as two programs, each started and given the dump; drgn with the vmlinux"""
    capture = capture_of_lab()
    table = table_of(program_of(capture))
    start, end = table.phys_base.value_(), (table.phys_base + 8 * table.size * table.unit_size).value_()
    one_file = min(count, MILLION)
    with file_of(some_addresses(one_file, start, end), count // one_file) as directory:
        of, loop = directory / "addresses", directory / "loop.py"
        source = "\n\n".join(map(inspect.getsource, (table_of, print_tested)))
        loop.write_text(_LOOP_HEAD + source + _LOOP_TAIL.format(addresses=str(of)))
        ours = program("-c", str(capture.dump), "resolve", "-f", str(of))
        other = measure.drgn(capture.dump, "-s", str(capture.vmlinux), str(loop))
        both = pairs(lambda: run(ours, directory / "ours"), lambda: run(other, directory / "other"), runs)
        _hold(directory / "ours", directory / "other")
    return [row(f"resolve -f of {count:,}, whole programs / drgn with test_bit loop", seconds(both), 0.02)]


def _hold(ours: Path, other: Path) -> None:
    """
    :raises Missing: the two do not say the same
    """
    if any(one != another for one, another in zip_longest(said(ours), said(other))):
        raise Missing("the two do not say the same")
