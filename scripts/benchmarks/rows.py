# SPDX-License-Identifier: LGPL-2.1-or-later
"""What scripts/bench measures: each function returns rows for one subject."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import drgn
from drgn.helpers.linux.bitops import test_bit
from drgn.helpers.linux.list import list_for_each_entry

from benchmarks.grown import Grown
from benchmarks.grown_kdump import GrownKdump, write_large_table
from benchmarks.measure import SAMPLE, Process, Row, row, run, timed, turns
from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.cli import main
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.model.bitmap import Geometry, from_runs, runs, unaccepted_ranges
from drgn_unaccepted.snapshot import ALL_PARTS, Wanted
from drgn_unaccepted.targets.vmcore import open_vmcore

MIB, TIB = 1 << 20, 1 << 40
UNIT, BASE = 2 * MIB, 4 << 30
#: Start of the kernel's direct map, where a made dump has its bitmap.
DIRECT_MAP = 0xFFFF_8880_0000_0000
MILLION = 1_000_000
#: A whole dump of a guest.
LAB = Path(os.environ.get("DRGN_UNACCEPTED_LAB", "~/.cache/drgn-unaccepted-lab")).expanduser()
CAPTURE = LAB / "captures" / "6.12" / "fill" / "dump.elf"
KDUMP = CAPTURE.with_name("kdump.z")


class Missing(Exception):
    """The input of a subject does not exist; the text says how to make it."""


def start(quick: bool = False) -> list[Row]:
    """time and peak memory of the summary of a sample / a bare drgn that opens it"""
    ours = (sys.executable, "-m", "drgn_unaccepted", "-c", SAMPLE, "summary")
    bare = (sys.executable, "-m", "drgn", "-q", "-c", SAMPLE, "--no-default-symbols", "-e", "print(1)")
    # drgn starts as for a user who has not installed this program.
    env = {"DRGN_DISABLE_PLUGINS": "unaccepted"}
    both = turns(lambda: run(ours), lambda: run(bare, env), 1 if quick else 15)
    name = "summary of a sample / bare drgn"
    return [
        row(f"{name}: time", ((one.seconds, two.seconds) for one, two in both), 1.3),
        row(f"{name}: peak memory", ((one.peak_bytes, two.peak_bytes) for one, two in both), 1.3, "bytes"),
    ]


def commands(quick: bool = False) -> list[Row]:
    """each command on the kdump and on the whole-RAM dump of a guest / a bare drgn that opens it"""
    rows = []
    env = {"DRGN_DISABLE_PLUGINS": "unaccepted"}
    for what, path, limit in (("a kdump", KDUMP, 1.3), ("a whole-RAM dump", CAPTURE, 1.25)):
        if not path.exists():
            raise Missing(f"no {path}: scripts/lab run fill --kernel 6.12")
        bare = (sys.executable, "-m", "drgn", "-q", "-c", path, "--no-default-symbols", "-e", "print(prog)")
        with TemporaryDirectory(prefix="bench-") as directory:
            page = Path(directory) / "page.html"
            for command in (("summary",), ("check",), ("resolve", "5G"), ("ranges",), ("map",), ("report", "-o", page)):
                ours = (sys.executable, "-m", "drgn_unaccepted", "-c", path, *command)
                both = turns(partial(run, ours), partial(run, bare, env), 1 if quick else 7)
                name = f"{command[0]} of {what} / bare drgn"
                rows.append(row(name, ((one.seconds, two.seconds) for one, two in both), limit))
    return rows


def snapshot(quick: bool = False) -> list[Row]:
    """summary of a snapshot file / python -c pass"""
    with TemporaryDirectory(prefix="bench-") as directory:
        path = Path(directory) / "snapshot.json"
        with contextlib.redirect_stdout(io.StringIO()):
            main(["-c", str(SAMPLE), "snapshot", "-o", str(path)])
        ours = (sys.executable, "-m", "drgn_unaccepted", "--snapshot", path)
        both = turns(partial(run, ours), partial(run, (sys.executable, "-c", "pass")), 1 if quick else 7)
    return [row("summary of a snapshot file / python -c pass", ((one.seconds, two.seconds) for one, two in both), 8)]


def lists(quick: bool = False) -> list[Row]:
    """check of a million listed chunks (4 TiB) / a plain list_for_each_entry walk in drgn"""
    guest = Grown(4 * TIB)

    def check() -> None:
        run_checks(capture(guest.opened, Wanted(ALL_PARTS)))

    def walk() -> None:
        deque(list_for_each_entry("struct page", guest.list_head, "lru"), maxlen=0)

    both = turns(timed(check), timed(walk), 1 if quick else 5)
    return [row("check of a million listed chunks / list_for_each_entry", both, 1.1)]


def resolve(quick: bool = False) -> list[Row]:
    """resolve -f of a million addresses, from a file to printed lines / the quicker test_bit loop in drgn"""
    if not CAPTURE.exists():
        raise Missing(f"no {CAPTURE}: scripts/lab run fill --kernel 6.12 (the samples lack the table's page tables)")
    prog = open_vmcore(str(CAPTURE)).prog
    address = prog["page_offset_base"].value_() + prog["efi"].unaccepted.value_()
    _version, unit, base, size = struct.unpack("<IIQQ", prog.read(address, 24))
    bitmap = drgn.Object(prog, prog.pointer_type(prog.type("unsigned long")), address + 24)
    end = base + 8 * size * unit
    number = MILLION // 10 if quick else MILLION
    with TemporaryDirectory(prefix="bench-") as directory:
        addresses = Path(directory) / "addresses"
        numbers = random.Random(3)
        addresses.write_text("".join(f"{numbers.randrange(base, end):#x}\n" for _ in range(number)))

        def loop() -> None:
            # As a user types it who reads the table's fields once; with them in the loop it takes twice as long.
            with addresses.open() as lines:
                for line in lines:
                    x = int(line, 16)
                    is_set = base <= x < end and test_bit((x - base) // unit, bitmap)
                    print(hex(x), "unaccepted" if is_set else "accepted")

        def ours() -> None:
            main(["-c", str(CAPTURE), "resolve", "-f", str(addresses)])

        outputs = [Path(directory) / name for name in ("ours", "loop")]
        both = turns(
            timed(lambda: _printed(ours, outputs[0])), timed(lambda: _printed(loop, outputs[1])), 1 if quick else 3
        )
        answers = [
            [line.split()[:2] for line in path.read_text().splitlines() if line.startswith("0x")] for path in outputs
        ]
        if answers[0] != answers[1]:
            raise SystemExit("resolve -f and the test_bit loop give different answers")
    return [row(f"resolve -f of {number:,} addresses / test_bit loop", both, 0.5)]


def _printed(work, output: Path) -> None:  # type: ignore[no-untyped-def]
    with output.open("w") as out, contextlib.redirect_stdout(out):
        work()


def ranges(quick: bool = False) -> list[Row]:
    """256 MiB of bitmap (4 PiB of guest) to ranges / one prog.read() of it"""
    rows = []
    for name, bitmap in (("two runs", _stretched_sample(256 * MIB)), ("1,000 holes", _with_holes(256 * MIB, 1000))):
        with _dump_of(bitmap) as prog:
            geometry = Geometry(BASE, len(bitmap), UNIT)
            both = turns(
                timed(lambda g=geometry, b=bitmap: deque(unaccepted_ranges(g, b), maxlen=0)),  # type: ignore[misc]
                timed(lambda p=prog, b=bitmap: p.read(DIRECT_MAP, len(b))),  # type: ignore[misc]
                1 if quick else 9,
            )
            rows.append(row(f"256 MiB of bitmap to ranges, {name} / one prog.read()", both, 0.5))
    return rows


def _stretched_sample(nbytes: int) -> bytes:
    """The sample's bitmap, stretched. A guest accepts from one end of each zone, so that it has two runs."""
    bitmap = capture(open_vmcore(str(SAMPLE)), Wanted(frozenset())).table.bitmap
    assert bitmap is not None
    factor = nbytes // len(bitmap)
    return from_runs(((first * factor, end * factor) for first, end in runs(bitmap)), nbytes)


#: The cheapest look at one page of each unit, as a user types it: the fields that tell, without an object for each.
WALK = """
import struct
base = prog["vmemmap_base"].value_()
zone = next(z for z in prog["node_data"][0].node_zones if z.name.string_() == b"Normal")
start, pages = zone.zone_start_pfn.value_(), zone.spanned_pages.value_()
read, unpack, given = prog.read, struct.Struct("<Q40xIIQ").unpack, 0
for pfn in range(start, start + pages, 512):
    flags, page_type, refcount, _ = unpack(read(base + 64 * pfn, 64))
    given += refcount != 0 or page_type >> 24 == 0xF0
print(given)
"""


def grown(quick: bool = False) -> list[Row]:
    """ranges, exact, of the kdump of a 1 TiB guest / a drgn walk that reads one struct page a unit; and of 10 TiB"""
    if not KDUMP.exists():
        raise Missing(f"no {KDUMP}: scripts/lab run fill --kernel 6.12")
    with TemporaryDirectory(prefix="bench-") as directory:
        made = [Path(directory) / name for name in ("1", "10")]
        for path, size in zip(made, (TIB, 10 * TIB)):
            GrownKdump(KDUMP, size).write(path)
        ours, tenfold = ((sys.executable, "-m", "drgn_unaccepted", "-c", path, "ranges") for path in made)
        walk = (sys.executable, "-c", f"{_OPEN.format(str(made[0]))}{WALK}")
        output = Path(directory) / "output"
        both = turns(lambda: run(ours, output=str(output)), partial(run, walk), 1 if quick else 3)
        if "reconstructed, exact" not in output.read_text():
            raise SystemExit("ranges of the grown kdump is not exact")
        ten = [(run(tenfold).seconds, 10 * one.seconds) for one, _ in both[:1]]
    name = "ranges of a 1 TiB guest's kdump"
    return [
        row(f"{name} / one struct page a unit in drgn", ((a.seconds, b.seconds) for a, b in both), 1.1),
        row(f"{name}: peak memory / 150 MiB", ((a.peak_bytes, 150 * MIB) for a, _ in both), 1, "bytes"),
        row("ranges of a 10 TiB guest's kdump / 10 times 1 TiB", ten, 1.1),
    ]


#: The user's program opens as ours does: drgn's own way to types costs more.
_OPEN = "from drgn_unaccepted.targets.vmcore import open_vmcore\nprog = open_vmcore({!r}).prog\n"


def bitmap(quick: bool = False) -> list[Row]:
    """peak memory of the summary of a whole dump with a bitmap of 256 MiB (4 PiB of guest) / the bitmap"""
    with TemporaryDirectory(prefix="bench-") as directory:
        path = Path(directory) / "dump"
        write_large_table(SAMPLE, path, _stretched_sample(256 * MIB))
        ours = (sys.executable, "-m", "drgn_unaccepted", "-c", path, "--source", "bitmap", "summary")
        peak = run(ours).peak_bytes
    return [row("summary of 4 PiB: peak memory / the bitmap", [(peak, 256 * MIB)], 1.3, "bytes")]


def scan(quick: bool = False) -> list[Row]:
    """scan of 500 dumps on two processors / 500 bare drgn by xargs -P2"""
    number = 20 if quick else 500
    with TemporaryDirectory(prefix="bench-") as directory:
        for each in range(number):
            (Path(directory) / f"{each}").symlink_to(SAMPLE)
        out = Path(directory) / "out.jsonl"
        ours = (sys.executable, "-m", "drgn_unaccepted", "scan", directory, "-j", "2", "--quiet", "-o", out)
        bare = f"{sys.executable} -m drgn -q -c {{}} --no-default-symbols -e 'print(prog)'"
        xargs = ("/bin/sh", "-c", f"find {directory} -type l | xargs -P2 -I{{}} {bare}")
        both = turns(
            partial(_scanned, ours, out, number), partial(run, xargs, {"DRGN_DISABLE_PLUGINS": "unaccepted"}), 1
        )
    return [row(f"scan of {number} dumps / xargs -P2 of bare drgn", ((a.seconds, b.seconds) for a, b in both), 1.2)]


def _scanned(argv: tuple[object, ...], out: Path, number: int) -> Process:
    out.unlink(missing_ok=True)
    done = run(argv)
    if out.read_text().count('"error": null') != number:
        raise SystemExit("scan left targets out")
    return done


#: Checks each record, takes one of each target, and counts by status, finding, release and platform.
_JQ = """
def counted(values): reduce values as $value ({}; .[$value] += 1);
[inputs | if (.schema == "drgn-unaccepted/1" and ([.id, .finished_at] | all(type == "string"))
      and (.status | IN("ok", "warning", "critical", "unknown")) and (.target.path | type) == "string"
      and all(.findings[]; ([.rule, .status, .message] | all(type == "string")) and (.ranges | type) == "array")
      and all((.passed, .skipped)[]; type == "string"))
  then {id, status, release: .target.release, platform: .platform.kind,
        findings: [.findings[] | .rule + " " + .status]}
  else error("no record") end]
| length as $all | unique_by(.id)
| {doubles: ($all - length), statuses: counted(.[].status), releases: counted(.[].release),
   platforms: counted(.[].platform), findings: counted(.[].findings[])}
"""


def merge(quick: bool = False) -> list[Row]:
    """merge of 100,000 records of scan / jq that validates and counts the same"""
    jq = shutil.which("jq")
    if jq is None:
        raise Missing("no jq: apt-get install jq")
    scan = (sys.executable, "-m", "drgn_unaccepted", "scan", "--quiet", SAMPLE)
    record = json.loads(subprocess.run(scan, capture_output=True, check=True).stdout.splitlines()[-1])
    number = 1000 if quick else 100_000
    with TemporaryDirectory(prefix="bench-") as directory:
        path = Path(directory) / "scan.jsonl"
        with path.open("w") as file:
            for each in range(number):
                file.write(json.dumps({**record, "id": f"{each:032x}", "host": f"guest-{each}"}) + "\n")
        ours = (sys.executable, "-m", "drgn_unaccepted", "merge", "--quiet", path)
        both = turns(partial(run, ours), partial(run, (jq, "-n", _JQ, path)), 1 if quick else 3)
    return [row(f"merge of {number:,} records / jq", ((a.seconds, b.seconds) for a, b in both), 1.0)]


def _with_holes(nbytes: int, holes: int) -> bytes:
    """All bits set but ``holes`` pairs of neighbours."""
    bitmap = bytearray(b"\xff") * nbytes
    for byte in random.Random(1).sample(range(nbytes), holes):
        bitmap[byte] = 0b11100111
    return bytes(bitmap)


@contextlib.contextmanager
def _dump_of(bitmap: bytes) -> Iterator[drgn.Program]:
    """A core dump file with nothing but this bitmap, at DIRECT_MAP."""
    size, offset = len(bitmap), 4096
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 4, offset, DIRECT_MAP, BASE, size, size, 4096)
    with TemporaryDirectory(prefix="bench-") as directory:
        path = Path(directory) / "dump"
        path.write_bytes((header + segment).ljust(offset, b"\0") + bitmap)
        prog = drgn.Program()
        prog.set_core_dump(path)
        yield prog


ROWS = {
    function.__name__: function
    for function in (start, commands, snapshot, lists, resolve, ranges, grown, bitmap, scan, merge)
}
