# SPDX-License-Identifier: LGPL-2.1-or-later
"""What holds for every snapshot, whatever is in it: files, documents and views; which files are refused."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, cast
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from drgn_unaccepted.cli import main
from drgn_unaccepted.codec import decode, hint
from drgn_unaccepted.commands import COMMANDS, Question
from drgn_unaccepted.commands import load as load_command
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.limits import FILE_WARNINGS
from drgn_unaccepted.snapshot import E820Tables, Snapshot, Table, Target
from drgn_unaccepted.snapshot_file import SCHEMA, dump, load, write
from tests import asking
from tests.asking import SAMPLES, Capsys
from tests.checks.build import clean
from tests.fuzz.files import _change
from tests.schemas import SCHEMAS, violation
from tests.snapshot_strategies import snapshots

#: One example runs many commands; how long they take is not what is tested.
slow = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))

UNIT = 2 << 20
BASE = 4 << 30


NOWHERE = Target("vmcore", None, None, None, "none", "2026-11-22T12:00:00+00:00")
#: Parts of a snapshot that can be missing.
PARTS = """
    accepting counters e820 efi_map kernel kernel_memory kexec_segments pages panic platform reclaiming zones
""".split()


# The commands

#: Arguments beside the command's own name; what is not here has none.
ARGUMENTS = {
    "resolve": ("0", "0-16G", "0xffffffffff000+4K"),
    "report": ("-o", "{}/page.html"),
    "snapshot": ("-o", "{}/s"),
}
QUESTIONS = [name for name in COMMANDS if isinstance(load_command(name), Question)]


@contextlib.contextmanager
def written(snapshot: Snapshot) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "snapshot"
        write(snapshot, str(path))
        yield path


def run(path: Path, name: str, *options: str) -> tuple[int, str, str]:
    """As on a terminal that cannot print everything."""
    argv = ["--snapshot", str(path), name, *ARGUMENTS.get(name, ()), *options]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([argument.replace("{}", str(path.parent)) for argument in argv])
    printed, said = (cast("io.BytesIO", stream.buffer).getvalue().decode("ascii") for stream in (out, err))
    return status, printed, said


@pytest.mark.parametrize("examples", [3, pytest.param(60, marks=pytest.mark.long)])
def test_every_question_is_answered_or_refused_in_one_line(examples: int) -> None:
    @settings(slow, max_examples=examples)
    @given(snapshots(), st.sampled_from(("auto", "bitmap", "page-lists", "counters")))
    @example(replace(clean(), e820=E820Tables((), (), (), ())), "auto")
    def test(snapshot: Snapshot, source: str) -> None:
        with written(snapshot) as path:
            for name in QUESTIONS:
                for format_ in ("text", "json", *load_command(name).formats):
                    assert_sound(name, format_, *run(path, name, "--format", format_, "--source", source))

    test()


def assert_sound(name: str, format_: str, status: int, out: str, err: str) -> None:
    assert status in (0, 3) or (name == "check" and status in (0, 1, 2, 3))
    assert not [c for c in out + err if c != "\n" and not c.isprintable()]
    # What is known is told beside why the rest is not.
    known = name in ("check", "resolve") or (name == "header" and format_ == "text") or format_ == "json"
    assert bool(out) is (status != 3 or known)
    assert len(err.splitlines()) == (status == 3)
    if format_ == "json":
        document = json.loads(out, parse_constant=pytest.fail)
        assert document["command"] == name and violation("answers", document) is None
    if format_ in ("junit", "svg") and out:
        ElementTree.fromstring(out)


def test_the_schema_of_answers_knows_every_question() -> None:
    """And refuses a document of each command without its own keys."""
    snapshot = Snapshot(NOWHERE, Table("absent", "no table"), missing=dict.fromkeys(PARTS, "none"))
    with written(snapshot) as path:
        for name in QUESTIONS:
            document = json.loads(run(path, name, "--format", "json")[1])
            shared = json.loads(run(path, "header", "--format", "json")[1])
            own = document.keys() - shared.keys() | ({"header"} if name == "header" else set())
            assert own and violation("answers", document) is None
            for key in own:
                del document[key]
            assert violation("answers", document) is not None, name


# The bitmap


def of_bitmap(bitmap: bytes, base: int = BASE, unit: int = UNIT) -> Snapshot:
    return Snapshot(
        NOWHERE,
        Table("present", None, 0x7FB73018, 1, unit, base, len(bitmap), bitmap, "physical"),
        missing=dict.fromkeys(PARTS, "not asked for"),
    )


def answer(path: Path, *argv: str) -> Any:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["--snapshot", str(path), *argv, "--format", "json"]) == 0
    return json.loads(out.getvalue())


@slow
@given(st.binary(min_size=1, max_size=3), st.sampled_from((4096, UNIT, 1 << 27)), st.data())
def test_resolve_says_what_the_bit_of_an_address_says(bitmap: bytes, unit: int, data: st.DataObject) -> None:
    edges = [BASE + n * unit for n in range(8 * len(bitmap))]
    inside = data.draw(st.lists(st.integers(BASE, BASE + 8 * len(bitmap) * unit - 1), max_size=8))
    addresses = [*edges, *(edge + unit - 1 for edge in edges), *inside]
    with written(of_bitmap(bitmap, unit=unit)) as path:
        found = answer(path, "resolve", *map(hex, addresses))["addresses"]
    bits = [int.from_bytes(bitmap, "little") >> (address - BASE) // unit & 1 for address in addresses]
    assert [(e["address"], e["unit"]["bit"]) for e in found] == list(zip(addresses, bits))
    assert [e["state"] for e in found] == [("accepted", "unaccepted")[bit] for bit in bits]


@slow
@given(st.binary(min_size=1, max_size=64), st.lists(st.integers(0, 1024), max_size=4))
def test_ranges_tile_what_is_covered_and_give_the_bits_back(bitmap: bytes, cuts: list[int]) -> None:
    end = BASE + 8 * len(bitmap) * UNIT
    points = sorted({BASE, end, *(BASE + cut % (16 * len(bitmap)) * (UNIT // 2) for cut in cuts)})
    with written(of_bitmap(bitmap)) as path:
        ranges = answer(path, "ranges")["ranges"]
        whole = answer(path, "resolve", f"{BASE:#x}-{end:#x}")["addresses"]
        parts = answer(path, "resolve", *(f"{a:#x}-{b:#x}" for a, b in zip(points, points[1:])))["addresses"]
    assert [r["start"] for r in ranges] == [BASE, *(r["end"] for r in ranges[:-1])]
    assert ranges[-1]["end"] == end
    bits = sum(
        1 << (address - BASE) // UNIT
        for r in ranges
        if r["state"] == "unaccepted"
        for address in range(r["start"], r["end"], UNIT)
    )
    assert bits.to_bytes(len(bitmap), "little") == bitmap
    # A range is resolved into the same pieces.
    assert [(e["address"], e["end"], e["state"]) for e in whole] == [(r["start"], r["end"], r["state"]) for r in ranges]
    states = [[e["state"] for e in es for _ in range(e["address"], e["end"], UNIT // 2)] for es in (whole, parts)]
    assert states[0] == states[1]


# Files


def walk(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield key, item
        yield from walk(item)


def refusal(text: str) -> Optional[str]:
    try:
        load(text)
    except SnapshotFileError as error:
        return str(error)
    return None


# The schemas


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_it_is_a_json_schema(path: Path) -> None:
    schema = json.loads(path.read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    used = {value.rpartition("/")[2] for key, value in walk(schema) if key == "$ref"}
    assert used == set(schema["definitions"]), "every reference leads somewhere, every definition is used"


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(snapshots(), st.integers(0, 1 << 32))
def test_a_file_gives_back_its_snapshot_and_is_refused_where_the_schema_refuses_it(found: Snapshot, seed: int) -> None:
    """Compared with the reference implementation of JSON Schema, on snapshots with something changed in them."""
    text = dump(found)
    assert load(text) == found
    assert violation("snapshot", json.loads(text)) is None
    value = _change(random.Random(seed), json.loads(text))
    refused = refusal(json.dumps(value))
    if violation("snapshot", value) is not None:
        assert refused is not None
        assert len(refused.splitlines()) == 1 and len(refused) < 500
    elif not any(isinstance(item, float) for _, item in walk(value)):
        # 1.0 is an integer to JSON Schema. The schema cannot see into what is packed.
        try:
            decode(copy.deepcopy(value["snapshot"]), hint(Snapshot), "snapshot")
        except SnapshotFileError as error:
            assert any(words in str(error) for words in (".bitmap: ", ".listed.", "ends before it starts"))


def test_the_answers_of_snapshot_and_replay_hold_to_their_schema(tmp_path: Path, capsys: Capsys) -> None:
    """All others are above."""
    for words in (f"-c {SAMPLES / '6.12-fill' / 'vmcore'} snapshot -o {tmp_path}/s", f"replay {SAMPLES}/6.12-fill.rec"):
        for line in asking.answered(capsys, *words.split(), "--format", "json").splitlines():
            assert violation("answers", json.loads(line)) is None


def test_the_records_of_a_scan_hold_to_their_schema(tmp_path: Path) -> None:
    targets = [SAMPLES / "6.12-fill" / "vmcore", tmp_path / "none"]
    targets[1].write_text("no dump")
    main(["scan", "--quiet", "-o", str(tmp_path / "new"), *map(str, targets)])
    old = Path(__file__).parent / "compatibility" / "scan.jsonl"
    for line in (*old.read_text().splitlines(), *(tmp_path / "new").read_text().splitlines()):
        assert violation("records", json.loads(line)) is None
        for key in ("schema", "command"):
            assert violation("records", {k: v for k, v in json.loads(line).items() if k != key})


# Files evolve


def test_the_parts_of_a_table_must_fit() -> None:
    for name in ("address", "version", "unit_size", "phys_base", "bitmap_bytes", "bitmap"):
        value = json.loads(dump(clean()))
        del value["snapshot"]["table"][name]
        assert "table" in (refusal(json.dumps(value)) or "")


def test_the_command_line_prints_the_warnings(tmp_path: Path, capsys: Capsys) -> None:
    value = json.loads(dump(clean()))
    value["later"] = value["snapshot"]["later\x1b"] = 1
    for zone in value["snapshot"]["zones"]:
        zone["later"] = 0
    path = tmp_path / "snapshot"
    path.write_text(json.dumps(value))
    assert asking.run(capsys, "--snapshot", path, "header")[2].splitlines() == [
        f"drgn-unaccepted: warning: {path}: unknown field {name} ignored"
        for name in ("file.later", "Snapshot.later\\x1b", "Zone.later")
    ]
    value["snapshot"].update(dict.fromkeys(map(str, range(1000))))
    path.write_text(json.dumps(value))
    assert len(asking.run(capsys, "--snapshot", path, "header")[2].splitlines()) == FILE_WARNINGS


# Other files


@pytest.mark.parametrize(
    ("text", "words"),
    (
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": -Infinity}', "Infinity is no number"),
        (f'{{"schema": "{SCHEMA}", "schema": "{SCHEMA}"}}', "'schema' is there twice"),
        (f'{{"schema": "{SCHEMA}"}}', "snapshot"),
        ("1" * 10_000, "not JSON"),
        ("[1]", "schema is None"),
        ('{"schema": "drgn-unaccepted-snapshot/2"}', "'drgn-unaccepted-snapshot/1' is what this program reads"),
        (json.dumps({"schema": "x" * 10_000}), "..."),
    ),
)
def test_what_is_no_snapshot_is_refused_in_a_line(text: str, words: str) -> None:
    refused = refusal(text)
    assert refused is not None and words in refused
    assert len(refused.splitlines()) == 1 and len(refused) < 300
