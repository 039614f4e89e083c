# SPDX-License-Identifier: LGPL-2.1-or-later
"""Worst cases made by hand, where damage by chance does not get: an answer, or one line that says why not.

Each runs in a process of its own; 10 s of CPU, 1 GiB of memory and a traceback are failures (tests.fuzz.run).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
from drgn import Architecture, Program
from drgn import Platform as Machine

from drgn_unaccepted import limits
from drgn_unaccepted.fleet.targets import BESIDE
from drgn_unaccepted.kernel.btf import Btf, Kind
from drgn_unaccepted.kernel.btf_finder import find_btf
from drgn_unaccepted.kernel.efi import read_efi_map
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.lists import walk_page_list
from drgn_unaccepted.kernel.log import read_panic
from drgn_unaccepted.kernel.platform import read_kernel_build
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.kernel.zones import read_zones
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.record.file import Recording
from drgn_unaccepted.record.keep import keep
from drgn_unaccepted.snapshot import Accept, AcceptingList, E820Tables, NamedRange, Platform, Snapshot, Task
from drgn_unaccepted.snapshot_file import read, write
from tests.checks import build
from tests.fuzz import files, run
from tests.fuzz.run import ANSWERED, CHECK_STATUS, REFUSED, Outcome
from tests.kernel import btf_writer as w
from tests.kernel.elf_dump import SAMPLES
from tests.kernel.firmware_program import FirmwareProgram
from tests.kernel.printk_writer import PrintkWriter
from tests.kernel.test_page_list import BASE, HEAD, LAYOUT
from tests.kernel.test_zones import CHUNK_PAGES, NORMAL, START, Guest
from tests.samples_over_time import series, write_recording

DUMP = SAMPLES / "6.12-fill" / "vmcore"


def outcome_of(check: Callable[[], Outcome], *wanted: str) -> Outcome:
    outcome = run.isolated(check)
    assert outcome.kind in (wanted or (ANSWERED, REFUSED)), outcome
    return outcome


# Types

#: What is looked up of a structure in a summary and a check.
STRUCTS = (
    "accept_range",
    "boot_params",
    "e820_table",
    "efi",
    "efi_memory_map",
    "free_area",
    "kimage",
    "list_head",
    "mem_section",
    "page",
    "pglist_data",
    "printk_info",
    "printk_ringbuffer",
    "setup_header",
    "signal_struct",
    "task_struct",
    "zone",
)


@cache
def real_btf() -> bytes:
    return find_btf(open_vmcore(str(DUMP)).prog)


class Patched(w.BtfWriter):
    """The kernel's own BTF, to which types are added and whose structures can be changed."""

    def __init__(self) -> None:
        super().__init__()
        data = real_btf()
        self.btf = Btf(data)
        _, _, _, header, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", data)
        self.types = bytearray(data[header + type_off :][:type_len])
        self.strings = bytearray(data[header + str_off :][:str_len])
        self.count = len(self.btf)

    def struct_at(self, name: str) -> tuple[int, int, int]:
        """Number of a structure, offset of its members in the type section, and how many they are."""
        number = self.btf.find(name, (Kind.STRUCT,))
        assert number is not None, name
        found = self.btf.type(number)
        return number, found.data, found.vlen

    def change_members(self, name: str, to: int) -> None:
        """Every member of a structure is of this type."""
        _, at, vlen = self.struct_at(name)
        for index in range(vlen):
            struct.pack_into("<I", self.types, at + 12 * index + 4, to)

    def extend(self, name: str, members: bytes) -> None:
        """The structure of this name has other members behind its own."""
        _, at, vlen = self.struct_at(name)
        own = bytes(self.types[at : at + 12 * vlen])
        (size,) = struct.unpack_from("<I", self.types, at - 4)
        number_of_name = struct.unpack_from("<I", self.types, at - 12)[0]
        struct.pack_into("<I", self.types, at - 12, 0)
        self.compound_of(number_of_name, size, own + members)

    def compound_of(self, name_off: int, size: int, members: bytes) -> int:
        self.types += struct.pack("<III", name_off, w.STRUCT << 24 | len(members) // 12, size) + members
        self.count += 1
        return self.count


def chain(b: Patched, kind: int, length: int, last: int = 1) -> int:
    name = b.string("t") if kind == w.TYPEDEF else 0
    b.types += b"".join(struct.pack("<III", name, kind << 24, b.count + n if n else last) for n in range(length))
    b.count += length
    return b.count


def huge_structures(b: Patched) -> None:
    for name in STRUCTS:
        _, at, _ = b.struct_at(name)
        struct.pack_into("<I", b.types, at - 4, 0xFFFFFFFF)


def nested(kind: int) -> Callable[[Patched], None]:
    def build(b: Patched) -> None:
        deep = chain(b, kind, 100_000)
        for name in STRUCTS:
            b.change_members(name, deep)

    return build


def cycle(*kinds: int) -> Callable[[Patched], None]:
    def build(b: Patched) -> None:
        first = b.count + 1
        for index, kind in enumerate(kinds):
            b.record(kind, "t" if kind == w.TYPEDEF else "", first + (index + 1) % len(kinds))
        for name in STRUCTS:
            b.change_members(name, first)

    return build


def huge_arrays(b: Patched) -> None:
    last = 1
    for _ in range(20):
        last = b.array(last, 0xFFFFFFFF)
    for name in STRUCTS:
        b.change_members(name, last)


def huge_array_of_structures(b: Patched) -> None:
    for name in STRUCTS:
        b.change_members(name, b.array(b.struct_at(name)[0], 0xFFFFFFFF))


def itself(b: Patched) -> None:
    for name in STRUCTS:
        b.change_members(name, b.struct_at(name)[0])


def itself_without_a_name(b: Patched) -> None:
    for name in STRUCTS:
        number, _, _ = b.struct_at(name)
        b.extend(name, struct.pack("<III", 0, number, 0) + struct.pack("<III", 0, b.count + 1, 0))


def many_members(number: int) -> Callable[[Patched], None]:
    def build(b: Patched) -> None:
        name = b.string("x" * 500)
        for structure in STRUCTS:
            b.extend(structure, struct.pack("<III", name, 1, 0) * number)

    return build


def many_members_below_each_other(b: Patched) -> None:
    """Each structure has 65,000 members without name and of many qualifiers, and then the structure before."""
    qualified = chain(b, w.CONST, 62)
    last = qualified
    for _ in range(30):
        last = b.compound_of(0, 4, struct.pack("<III", 0, qualified, 0) * 65_000 + struct.pack("<III", 0, last, 0))
    for structure in STRUCTS:
        b.extend(structure, struct.pack("<III", 0, last, 0))


def steps_without_a_name(b: Patched) -> None:
    """Each member without name is a pointer to the one before, but for 50 others: no chain is looked at too long."""
    last, members = 1, b""
    for _ in range(2_000):
        last = chain(b, w.PTR, 50, last)
        members += struct.pack("<III", 0, last, 0)
    for structure in STRUCTS:
        _, at, vlen = b.struct_at(structure)
        own = bytes(b.types[at : at + 12 * vlen])
        b.extend(structure, members)
        b.types[-len(members) - len(own) :] = members + b"".join(
            own[index : index + 4] + struct.pack("<I", last) + own[index + 8 : index + 12]
            for index in range(0, len(own), 12)
        )


def one_name_everywhere(b: Patched) -> None:
    """A million times what looks like a constant that is searched for, for each of several."""
    for name in ("NR_FREE_PAGES", "NR_UNACCEPTED", "WMARK_MIN", "PGTY_unaccepted", "PG_reserved", "zone", "page"):
        word = struct.pack("<I", b.string(name))
        # In the names of parameters, which are no constants.
        for _ in range(7):
            b.types += struct.pack("<III", 0, w.FUNC_PROTO << 24 | 0xFFFF, 1) + word * (2 * 0xFFFF)
            b.count += 1


TYPES: dict[str, Callable[[Patched], None]] = {
    "typedefs nested 100000 deep": nested(w.TYPEDEF),
    "pointers nested 100000 deep": nested(w.PTR),
    "qualifiers nested 100000 deep": nested(w.VOLATILE),
    "functions nested 100000 deep": nested(w.FUNC_PROTO),
    "a typedef of itself": cycle(w.TYPEDEF),
    "const of volatile of const": cycle(w.CONST, w.VOLATILE),
    "a pointer to a typedef of the pointer": cycle(w.PTR, w.TYPEDEF),
    "arrays of 2^32 arrays": huge_arrays,
    "2^32 of a structure in itself": huge_array_of_structures,
    "structures of 4 GiB": huge_structures,
    "a structure of itself": itself,
    "a structure of itself without a name": itself_without_a_name,
    "3800 members": many_members(3_800),
    "65000 members": many_members(65_000),
    "65000 members below each other": many_members_below_each_other,
    "pointers without a name, each to the one before": steps_without_a_name,
    "a name everywhere": one_name_everywhere,
}


@pytest.mark.parametrize("name", TYPES)
def test_types(name: str, tmp_path: Path) -> None:
    path = tmp_path / "btf"
    patched = Patched()
    TYPES[name](patched)
    path.write_bytes(patched.data())

    def check() -> Outcome:
        given = ("-c", DUMP, "-s", path, "--debug-info", "btf")
        status, _, said = run.command(*given, "check", fails=CHECK_STATUS)
        return Outcome(REFUSED if status == 3 else ANSWERED, said[0] if said else "")

    assert outcome_of(check).peak_bytes < 600 << 20


def test_types_that_were_not_changed(tmp_path: Path) -> None:
    """So that what is refused above is refused for what was changed."""
    path = tmp_path / "btf"
    path.write_bytes(Patched().data())
    assert path.read_bytes()[24:] == real_btf()[24:]
    status, out, _ = run.command("-c", DUMP, "-s", path, "--debug-info", "btf", "summary")
    assert status == 0 and "bitmap" in out


# The kernel log


def log_of(text: bytes) -> PrintkWriter:
    """The largest ring there can be, full of records of this text as long as records can be."""
    writer = PrintkWriter(count_bits=10, size_bits=25)
    # Each has what is looked for.
    record = (b"efi: " + text * (65_528 // len(text) + 1))[:65_528]
    for _ in range(limits.LOG_BYTES // 65_536):
        writer.write(record)
    assert len(writer.kept) > 500
    return writer


@pytest.mark.parametrize(
    "text",
    (
        b"\xff\n",
        b"efi: \xff\n",
        b"efi: mem00: [" + b" " * 65_000,
        b"efi: mem00: [" + b"[type=" * 1_000,
        b"Kernel panic - not syncing: \x1b]0;x\x07\x1b[2J\xe2\x80\xae\n",
        b"Kernel panic - not syncing: " + b"\x1b[31m" * 13_000,
    ),
    ids=("short lines", "short lines of EFI", "spaces", "brackets", "many panics", "a panic of escapes"),
)
def test_log(text: bytes) -> None:
    program = FirmwareProgram()
    # Not captured, so that the log is asked.
    program.set_efi_info(0x7FB70040, 48 * 10)
    log_of(text).install(program)

    def check() -> Outcome:
        try:
            read_panic(program.prog)
            read_efi_map(program.prog)
        except Unavailable as error:
            return Outcome(REFUSED, str(error))
        return Outcome(ANSWERED, "")

    assert outcome_of(check).seconds < 5


def test_a_panic_of_escapes_in_every_answer(tmp_path: Path) -> None:
    """64 KiB of them, which no terminal gets to see."""
    snapshot = tmp_path / "snapshot"
    write(replace(build.clean(), panic="\x1b]0;x\x07\x1b[2J\u202e\u2066" * 5_000), str(snapshot))
    outcome_of(lambda: Outcome(ANSWERED, str(run.ask_everything(snapshot))[:100]), ANSWERED)


# A full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "worst-cases", path], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounts a file system, which is for root: {done.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def fill(disk: Path, free_pages: int) -> None:
    with (disk / "full").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate((os.fstat(file.fileno()).st_size // 4096 - free_pages) * 4096)


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


SNAPSHOT, RECORDS = "{snapshot}", "{records}"
#: What writes the file ``{}``, and whether that takes more than a page.
WRITERS: dict[str, tuple[tuple[object, ...], bool]] = {
    "snapshot": (("-c", DUMP, "snapshot", "-o", "{}"), True),
    "report": (("--snapshot", SNAPSHOT, "report", "-o", "{}.html"), True),
    "svg": (("--snapshot", SNAPSHOT, "map", "-o", "{}.svg"), True),
    "png": (("--snapshot", SNAPSHOT, "map", "-o", "{}.png"), True),
    "check": (("--snapshot", SNAPSHOT, "check", "-o", "{}"), False),
    "check as json": (("--snapshot", SNAPSHOT, "check", "--format", "json", "-o", "{}"), True),
    "check as prometheus": (("--snapshot", SNAPSHOT, "check", "--format", "prometheus", "-o", "{}"), False),
    "merge": (("merge", "-o", "{}", RECORDS), False),
    "merge as csv": (("merge", "--format", "csv", "-o", "{}", RECORDS), False),
    "scan": (("scan", "--quiet", "-o", "{}", SNAPSHOT), False),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("inputs")
    snapshot, records = directory / "snapshot", directory / "records"
    assert run.command("-c", DUMP, "snapshot", "-o", snapshot)[0] == 0
    assert run.command("scan", "--quiet", "-o", records, snapshot)[0] == 0
    return {"snapshot": str(snapshot), "records": str(records)}


@pytest.mark.parametrize("free_pages", (0, 1))
@pytest.mark.parametrize("old", (False, True), ids=("new", "old"))
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, old: bool, free_pages: int, disk: Path, inputs: dict[str, str]) -> None:
    words, large = WRITERS[name]
    if free_pages and not large:
        pytest.skip("fits in a page")
    if name in ("svg", "png"):
        pytest.importorskip("matplotlib")
    target = disk / "out"
    argv = [str(word).format(target, **inputs) for word in words]
    if old and name == "scan":
        assert run.command(*argv)[0] == 0
    elif old:
        next(Path(word) for word in argv if word.startswith(str(target))).write_text("what was there before")
    if old and name == "scan":
        # Another target, for whose record there is no room in what is left of the page.
        argv[-1] = str(DUMP)
        target.write_bytes(target.read_bytes() * (4096 // target.stat().st_size + 1))
        size = target.stat().st_size // 4096 * 4096
        lines = target.read_bytes()[:size].rpartition(b"\n")[0]
        target.write_bytes(lines[:-1] + b" " * (size - len(lines) - 1) + b"}\n")
    fill(disk, free_pages)
    before = files_of(disk)
    done = subprocess.run(
        [sys.executable, "-m", "drgn_unaccepted", *argv], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1 and str(target) in done.stderr
    left = files_of(disk)
    if name == "scan" and not old:
        # Its file is made first, so that no other scan writes it.
        assert left.pop("out") == b""
    assert left == before


@pytest.mark.parametrize("free_pages", (0, 1))
@pytest.mark.parametrize("old", (False, True), ids=("new", "old"))
def test_the_flight_recorder_on_a_full_disk(old: bool, free_pages: int, disk: Path, inputs: dict[str, str]) -> None:
    snapshot, boot = read(inputs["snapshot"]), "0f" * 4 + "-0f0f" * 3 + "-" + "0f" * 6
    directory = disk / "out"
    (directory / boot).mkdir(parents=True)
    if old:
        keep(snapshot, boot, str(directory))
    fill(disk, free_pages)
    before = files_of(disk)
    with pytest.raises(OSError, match="No space left"):
        keep(snapshot, boot, str(directory))
    left = files_of(disk)
    if not old and free_pages:
        # The table, which comes first and is of use alone.
        (table,) = left.keys() - before.keys()
        assert left.pop(table) == snapshot.table.to_bytes()
    assert left == before


@pytest.mark.parametrize("taken", (0, 1, 5))
def test_a_recording_on_a_full_disk(taken: int, disk: Path) -> None:
    """Whole samples, or no file: the next recording has the same name."""
    path = disk / "recording"
    samples = [replace(each, torn=("x" * 2_000,) * number) for number, each in enumerate(series(taken + 20))]
    fill(disk, 2 * taken)
    with pytest.raises(OSError, match="No space"):
        write_recording(path, samples)
    if not taken:
        assert not path.exists()
        return
    recording = Recording(str(path))
    got = [sample.snapshot for sample in recording]
    assert recording.dropped is None and path.read_bytes().endswith(b"\n")
    assert got == samples[: len(got)] and got


@pytest.mark.parametrize("words", (("summary",), ("check",), ("map",), ("ranges", "--format", "json")))
def test_standard_output_on_a_full_disk(words: tuple[str, ...], disk: Path, inputs: dict[str, str]) -> None:
    fill(disk, 0)
    with (disk / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "drgn_unaccepted", "--snapshot", inputs["snapshot"], *words],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1, (done.returncode, done.stderr)


# Bombs

NESTED = ("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000)
#: Under the name of a field that is a number.
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 5_000, "1" + "0" * 400, "-0.5", '"1"', "true")


def snapshot_lines(change: Callable[[str], str]) -> bytes:
    return change(files.snapshot_text("6.12-fill")).encode()


def recording_of(change: Callable[[str], str]) -> bytes:
    header, first, *rest = files.recording_lines()
    return "\n".join([header, change(first), *rest, ""]).encode()


CHANGES: dict[str, Callable[[str], str]] = {
    **{f"nested {n}": lambda text, deep=deep: text.replace("null", deep, 1) for n, deep in enumerate(NESTED)},  # type: ignore[misc]
    **{
        f"{number[:9]} {field}": lambda text, field=field, number=number: re.sub(  # type: ignore[misc]
            rf'"{field}": ?\d+', f'"{field}": {number}', text, count=1
        )
        for field in ("unit_size", "start_pfn", "cpus")
        for number in NUMBERS
    },
    "schema twice": lambda text: '{"schema": "x", ' + text[1:],
    "a table twice": lambda text: text.replace('"table":', '"table": null, "table":', 1),
    "a surrogate for a key": lambda text: text.replace('"missing"', '"\\udc80": 1, "missing"', 1),
    "NUL in a name": lambda text: re.sub(r'"name": ?"', r'"name": "\\u0000', text, count=1),
    "a bitmap that unpacks to 1 GiB": lambda text: re.sub(
        r'"bitmap": ?"[^"]*"', f'"bitmap": "{files.big_bomb()}"', text, count=1
    ),
    "every list unpacks to 64 MiB": lambda text: re.sub(
        r'"(pfns|flags|refcounts|page_types)": ?"[^"]*"', rf'"\1": "{files.BOMB}"', text
    ),
    "a bomb in a bomb": lambda text: re.sub(
        r'"bitmap": ?"[^"]*"',
        f'"bitmap": "{base64.b64encode(zlib.compress(zlib.compress(bytes(64 << 20)))).decode()}"',
        text,
        count=1,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", ("snapshot", "recording"))
def test_a_file_that_is_no_file_of_ours(kind: str, name: str, tmp_path: Path) -> None:
    data = (snapshot_lines if kind == "snapshot" else recording_of)(CHANGES[name])
    assert data != (snapshot_lines if kind == "snapshot" else recording_of)(str), "nothing was changed"
    check = files.check_snapshot if kind == "snapshot" else files.check_recording
    # A line of a recording may say more than is read of it.
    # A field that this version does not know is left out with a warning.
    harmless = name in ("NUL in a name", "a surrogate for a key") or (kind, name) == ("recording", "schema twice")
    outcome_of(lambda: check(data, tmp_path), *((ANSWERED, REFUSED) if harmless else (REFUSED,)))


BOMBS = (
    *NESTED,
    "NaN",
    "1" * 5_000,
    '{"schema": NaN}',
    '{"id": 1, "id": 2}',
    '{"path": "a\\u0000b"}',
    '{"path": "a\\ud800b"}',
    '{"path": "%s"}' % ("x" * 5_000),
    "a\0b",
)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: repr(bomb)[1:25])
@pytest.mark.parametrize("place", ("records", "manifest", "beside", "merged"))
def test_a_bomb_among_the_files_of_a_fleet(place: str, bomb: str, tmp_path: Path, inputs: dict[str, str]) -> None:
    path = tmp_path / ("path.list" if place == "manifest" else "path")
    path.write_text(bomb + "\n")
    target = tmp_path / "target"
    target.write_bytes(Path(inputs["snapshot"]).read_bytes())
    (tmp_path / f"target{BESIDE}").write_text(bomb + "\n" if place == "beside" else "")
    argv: dict[str, tuple[object, ...]] = {
        "records": ("scan", "--quiet", "-o", path, target),
        "manifest": ("scan", "--quiet", path),
        "beside": ("scan", "--quiet", "--beside", target),
        "merged": ("merge", path),
    }

    def check() -> Outcome:
        status, _, said = run.command(*argv[place], fails=(0, 1, 2, 3), notes=9)
        return Outcome(REFUSED if status == 3 else ANSWERED, "".join(said))

    outcome = outcome_of(check)
    if place == "records":
        assert path.read_text() == bomb + "\n" and "left alone" in outcome.text


# Names

NAMES = {
    "bidi": "a\u202e\u2066b\u200f",
    "escapes": "\x1b[2J\x1b]8;;http://x\x07\x9b31m",
    "markup": "</script><script>alert(1)</script><!--]]>&amp;'\"`",
    "quotes": "\"'`,;|=\\",
    "lines": "a\r\nb\x0bc\x85d\u2028e\u2029f",
    "NUL": "a\0b",
    "surrogates": "a\udc80b\ud800c",
    "a formula": "=cmd|' /C calc'!A1",
    "no characters": "\ufffe\uffff\U0010ffff\ufeff",
    "template": "{0}{name}%s%(x)s${x}{{x}}",
}


def named(name: str) -> Snapshot:
    """Every text in it that a target can choose has this name in it."""
    clean = build.clean()
    zones = tuple(replace(zone, name=name[:15], problems=(name,), locked=True) for zone in clean.zones or ())
    task = Task(1, name[:15], 0)
    return replace(
        clean,
        target=replace(clean.target, path=name, release=name, build_id=name, snapshot_path=None),
        zones=zones,
        accepting=AcceptingList((Accept(0xFFFF888000000000, 12, 14, task),), (name,)),
        platform=Platform("tdx", name, None, None),
        kernel_memory=(NamedRange(name, 0x100000000, 0x100200000),),
        reclaiming=(task,),
        panic=name,
        missing={"kexec_segments": name, name: name},
        torn=(name,),
    )


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, tmp_path: Path) -> None:
    snapshot, page = tmp_path / "snapshot", tmp_path / "page"
    write(named(NAMES[name]), str(snapshot))

    def check() -> Outcome:
        run.ask_everything(snapshot)
        given = ("--snapshot", snapshot)
        for format_ in ("text", "json", "nagios", "prometheus", "junit"):
            out = tmp_path / format_
            run.command(*given, "check", "--format", format_, fails=run.CHECK_STATUS)
            run.command(*given, "check", "--format", format_, "-o", out, fails=run.CHECK_STATUS)
        json.loads((tmp_path / "json").read_text())
        ElementTree.parse(tmp_path / "junit")
        run.command(*given, "report", "-o", page)
        run.command("scan", "--quiet", "-o", tmp_path / "records", snapshot)
        for format_ in ("text", "json", "csv"):
            run.command("merge", "--format", format_, tmp_path / "records")
            run.command("merge", "--format", format_, "-o", tmp_path / f"merged.{format_}", tmp_path / "records")
        return Outcome(ANSWERED, "")

    outcome_of(check, ANSWERED)
    for written in ("text", "nagios", "prometheus", "junit", "merged.text", "page"):
        text = (tmp_path / written).read_text("utf-8")
        assert not [c for c in text if not c.isprintable() and c != "\n"], written
    html = page.read_text()
    assert "<script>alert" not in html and html.count("</script>") == build_page_scripts(tmp_path)


def build_page_scripts(directory: Path) -> int:
    """How many there are in the page of a snapshot without such names."""
    write(build.clean(), str(directory / "clean"))
    run.command("--snapshot", directory / "clean", "report", "-o", directory / "clean.html")
    return (directory / "clean.html").read_text().count("</script>")


# Maps


TOP = limits.PHYSICAL_END

#: Descriptors of the EFI map, and entries of each e820 table.
MAPS: dict[str, tuple[list[EfiDescriptor], list[tuple[int, int]]]] = {
    "as many as can be, each in the one before": (
        [EfiDescriptor(15 if n % 2 else 7, n * 4096, TOP - n * 4096, 0xF) for n in range(limits.EFI_DESCRIPTORS)],
        [(n * 4096, TOP - n * 4096) for n in range(limits.E820_ENTRIES)],
    ),
    "all the same, beyond all addresses": (
        [EfiDescriptor(15, 0, 1 << 64, 0xF)] * limits.EFI_DESCRIPTORS,
        [((1 << 64) - 4096, (1 << 65) - 1)] * limits.E820_ENTRIES,
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps(name: str, tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    descriptors, ranges = MAPS[name]
    clean = build.clean()
    assert clean.efi_map is not None
    table = tuple(E820Entry(start, end, number % 20) for number, (start, end) in enumerate(ranges))
    efi_map = replace(clean.efi_map, descriptors=tuple(descriptors))
    write(replace(clean, efi_map=efi_map, e820=E820Tables(table, table, table, table)), str(path))
    for words in (("map",), ("efi",), ("resolve", "0-4096T"), ("check",)):

        def check(words: tuple[str, ...] = words) -> Outcome:
            status, _, said = run.command("--snapshot", path, *words, fails=run.CHECK_STATUS)
            return Outcome(REFUSED if status == 3 else ANSWERED, "".join(said))

        outcome_of(check)


# Page lists


@pytest.mark.parametrize("begin", (0, 1_000))
def test_a_list_that_leads_back_into_itself_after_a_million_pages(begin: int) -> None:
    """In no order that could be guessed; ``begin`` entries are not in the cycle."""
    period = 1_000_003
    pages = bytearray(64 * (begin + period))

    def pfn(number: int) -> int:
        # 617 generates every place of the cycle, since the period is prime.
        return number if number < begin else begin + (number - begin) * 617 % period

    for number in range(begin + period):
        following = number + 1 if number + 1 < begin + period else begin
        before = number - 1
        links = (BASE + 64 * pfn(following) + 8, BASE + 64 * pfn(before) + 8 if before >= 0 else HEAD)
        struct.pack_into("<QQ", pages, 64 * pfn(number) + 8, *links)
    head = struct.pack("<QQ", BASE + 8 + 64 * pfn(0), 0)
    prog = Program(Machine(Architecture.X86_64))
    prog.add_memory_segment(HEAD, 16, lambda _address, count, offset, _physical: head[offset : offset + count])
    prog.add_memory_segment(BASE, len(pages), lambda _address, count, offset, _physical: pages[offset : offset + count])

    def check() -> Outcome:
        listed = walk_page_list(prog, LAYOUT, HEAD, limits.LISTED_CHUNKS)
        assert len(listed.pfns) == begin + period and len(set(listed.pfns)) == begin + period
        return Outcome(ANSWERED, listed.problems[-1])

    assert outcome_of(check, ANSWERED).text.endswith("a cycle")


@pytest.mark.parametrize("way", ("a list", "the head of the other zone"))
def test_two_zones_that_share(way: str) -> None:
    """The second head leads into the first one's list, which never comes back to it."""
    guest = Guest()
    first = guest.zone
    second = guest.populate(guest.add_node(1), NORMAL, "Normal", START + 64 * CHUNK_PAGES, 64 * CHUNK_PAGES)
    pfns = [START + n * CHUNK_PAGES for n in (1, 2, 3)]
    guest.list_chunks(first, pfns)
    other = guest.at("zone", first, "unaccepted_pages")
    link = guest.lru(pfns[1]) if way == "a list" else other
    guest.write(guest.at("zone", second, "unaccepted_pages"), struct.pack("<QQ", link, guest.lru(pfns[2])))
    zones = read_zones(guest.prog, read_kernel_build(guest.prog))
    one, two = (zone.listed for zone in zones)
    assert one is not None and two is not None
    assert (list(one.pfns), one.problems) == (pfns, ())
    assert list(two.pfns) == (pfns[1:] if way == "a list" else [])
    assert f"{other:#x}, which is in no struct page" in two.problems[-1]
