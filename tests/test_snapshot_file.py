# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshot files: what is read, what is refused and how; how they evolve; the generated JSON Schemas."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn_unaccepted.cli import main
from drgn_unaccepted.codec import decode, hint
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.limits import FILE_WARNINGS
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.snapshot_file import SCHEMA, dump, load
from tests.asking import Capsys, answered, run
from tests.checks.build import clean
from tests.fuzz.files import _change
from tests.kernel.elf_dump import SAMPLES
from tests.schemas import SCHEMAS, violation
from tests.snapshot_strategies import snapshots

ROOT = Path(__file__).parents[1]


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
    """All others are in test_properties."""
    for words in (f"-c {SAMPLES / '6.12-fill' / 'vmcore'} snapshot -o {tmp_path}/s", f"replay {SAMPLES}/6.12-fill.rec"):
        for line in answered(capsys, *words.split(), "--format", "json").splitlines():
            assert violation("answers", json.loads(line)) is None


def test_the_records_of_a_scan_hold_to_their_schema(tmp_path: Path) -> None:
    targets = [SAMPLES / "6.12-fill" / "vmcore", tmp_path / "none"]
    targets[1].write_text("no dump")
    main(["scan", "--quiet", "-o", str(tmp_path / "new"), *map(str, targets)])
    old = ROOT / "tests" / "compatibility" / "scan.jsonl"
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
    assert run(capsys, "--snapshot", path, "header")[2].splitlines() == [
        f"drgn-unaccepted: warning: {path}: unknown field {name} ignored"
        for name in ("file.later", "Snapshot.later\\x1b", "Zone.later")
    ]
    value["snapshot"].update(dict.fromkeys(map(str, range(1000))))
    path.write_text(json.dumps(value))
    assert len(run(capsys, "--snapshot", path, "header")[2].splitlines()) == FILE_WARNINGS


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
