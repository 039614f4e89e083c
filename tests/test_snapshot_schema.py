# SPDX-License-Identifier: LGPL-2.1-or-later
"""The JSON Schemas of the package: sound themselves, and the same as what the program writes and reads."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import random
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits, snapshot
from drgn_unaccepted.schema import load_schema, violation
from drgn_unaccepted.snapshot import ListedChunks, Snapshot
from drgn_unaccepted.snapshot_file import SCHEMA, SnapshotFileError, decode, dump, load, read, write
from tests.checks import build
from tests.fuzz.files import _change
from tests.snapshot_strategies import snapshots

SCHEMA_FILES = ("snapshot", "answers")


@pytest.mark.parametrize("name", SCHEMA_FILES)
def test_it_is_a_json_schema(name: str) -> None:
    jsonschema.Draft7Validator.check_schema(load_schema(name))


@pytest.mark.parametrize("name", SCHEMA_FILES)
def test_every_reference_leads_somewhere_and_every_definition_is_used(name: str) -> None:
    schema = load_schema(name)
    used = {value.rpartition("/")[2] for key, value in walk(schema) if key == "$ref"}
    assert used == set(schema["definitions"])


def walk(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield key, item
        yield from walk(item)


DATACLASSES = [
    getattr(snapshot, name)
    for name in load_schema("snapshot")["definitions"]
    if dataclasses.is_dataclass(getattr(snapshot, name, None))
]


def test_it_knows_every_dataclass_of_a_snapshot() -> None:
    named = {kind.__name__ for kind in DATACLASSES}
    found, todo = set(), [Snapshot]
    while todo:
        kind = todo.pop()
        if kind.__name__ in found:
            continue
        found.add(kind.__name__)
        hints = {} if kind is ListedChunks else typing.get_type_hints(kind)
        for hint in hints.values():
            todo += [k for k in leaves(hint) if dataclasses.is_dataclass(k)]
    assert found == named


def leaves(hint: Any) -> Iterator[Any]:
    arguments = typing.get_args(hint)
    if not arguments:
        yield hint
    for argument in arguments:
        yield from leaves(argument)


@pytest.mark.parametrize("kind", DATACLASSES, ids=lambda kind: kind.__name__)
def test_it_knows_every_field(kind: Any) -> None:
    """Who adds a field to a snapshot adds it to schema/snapshot.json."""
    definition = load_schema("snapshot")["definitions"][kind.__name__]
    names = {field.name for field in dataclasses.fields(kind)}
    assert set(definition["properties"]) == names
    assert set(definition["required"]) == names


def test_its_bounds_are_the_limits() -> None:
    definitions = load_schema("snapshot")["definitions"]
    assert definitions["EfiMap"]["properties"]["descriptors"]["maxItems"] == limits.EFI_DESCRIPTORS
    assert definitions["E820Table"]["maxItems"] == limits.E820_ENTRIES
    assert definitions["Snapshot"]["properties"]["zones"]["maxItems"] == limits.NODES * limits.ZONES
    assert definitions["Zone"]["properties"]["node"]["maximum"] == limits.NODES - 1
    assert definitions["Pages"]["properties"]["masked_pfns"]["maxItems"] == limits.MASKED_PAGES
    assert definitions["AcceptingList"]["properties"]["entries"]["maxItems"] == limits.ACCEPTING_ENTRIES
    assert definitions["KernelBuild"]["properties"]["cpus"]["maximum"] == limits.GLOBAL_ARRAY_LENGTH
    chunk_pages = definitions["KernelBuild"]["properties"]["chunk_pages"]["enum"]
    assert chunk_pages == [1 << order for order in range(limits.PAGE_ORDERS)]
    for run in definitions["PageRun"]["items"][:2]:
        assert run["maximum"] == limits.PHYSICAL_END >> snapshot.PAGE_SHIFT


# What is read and what the schema takes


def _content_encoding(validator: Any, encoding: str, value: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """Draft 7 leaves it open whether it is more than a remark; this program's validator refuses what is no base64."""
    assert encoding == "base64"
    if isinstance(value, str):
        try:
            base64.b64decode(value)
        except ValueError as error:
            yield jsonschema.ValidationError(str(error))


_Reference = jsonschema.validators.extend(jsonschema.Draft7Validator, {"contentEncoding": _content_encoding})
REFERENCE = _Reference(load_schema("snapshot"))


def refusal(text: str) -> Optional[str]:
    try:
        load(text)
    except SnapshotFileError as error:
        return str(error)
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(snapshots(), st.integers(0, 1 << 32))
def test_nothing_is_read_that_breaks_the_schema_nor_refused_by_types_that_holds_to_it(
    found: Snapshot, seed: int
) -> None:
    """Against the reference implementation of JSON Schema, on snapshots with something changed in them."""
    value = _change(random.Random(seed), json.loads(dump(found)))
    text = json.dumps(value)
    holds = REFERENCE.is_valid(value)
    assert (violation("snapshot", value) is None) == holds
    refused = refusal(text)
    if not holds:
        assert refused is not None
        assert len(refused.splitlines()) == 1 and len(refused) < 500
    elif not any(isinstance(item, float) for _, item in walk(value)):
        # 1.0 is an integer to JSON Schema. What is packed, and what contradicts itself, the schema cannot see.
        try:
            decode(copy.deepcopy(value["snapshot"]), Snapshot, "snapshot")
        except SnapshotFileError as error:
            assert any(word in str(error) for word in ("columns of different lengths", "whole number of values")) or (
                ".bitmap: " in str(error) or ".listed." in str(error)
            )


def test_what_is_no_base64_breaks_the_schema() -> None:
    """Seldom found by the changes above: they have to make a string of it, and one of this length."""
    value = json.loads(dump(build.clean()))
    assert violation("snapshot", value) is None and REFERENCE.is_valid(value)
    value["snapshot"]["zones"][0]["listed"] = {
        **dict.fromkeys(("pfns", "flags", "refcounts", "page_types"), "A"),
        "problems": [],
    }
    assert not REFERENCE.is_valid(value)
    words = violation("snapshot", value)
    assert words is not None and "must be encoded by base64" in words
    assert refusal(json.dumps(value)) is not None


@pytest.mark.parametrize(
    ("schema", "words"),
    (
        ("drgn-unaccepted-snapshot/2", "'drgn-unaccepted-snapshot/2', and 'drgn-unaccepted-snapshot/1' is what"),
        ("drgn-unaccepted-recording/1", "'drgn-unaccepted-snapshot/1' is what this program reads"),
        (None, "schema is None"),
        ("x" * 10_000, "..."),
    ),
)
def test_another_version_is_refused_clearly(schema: Optional[str], words: str) -> None:
    refused = refusal(json.dumps({"schema": schema, "snapshot": {}}))
    assert refused is not None and words in refused and len(refused) < 200


@pytest.mark.parametrize(
    ("text", "words"),
    (
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": NaN}', "NaN is no number"),
        ('{"schema": -Infinity}', "Infinity is no number"),
        (f'{{"schema": "{SCHEMA}", "schema": "{SCHEMA}"}}', "'schema' is there twice"),
        (f'{{"schema": "{SCHEMA}"}}', "snapshot"),
        ("1" * 10_000, "not JSON"),
        ("[1]", "schema is None"),
    ),
)
def test_what_is_no_snapshot(text: str, words: str) -> None:
    refused = refusal(text)
    assert refused is not None and words in refused
    assert len(refused.splitlines()) == 1 and len(refused) < 500


# How it is written


@given(snapshots())
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_write_that_fails_leaves_the_old_file(found: Snapshot) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        path = Path(directory) / "snapshot"
        write(found, str(path))
        before = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            write(dataclasses.replace(found, panic="another"), str(path))
        assert path.read_bytes() == before
        assert [entry.name for entry in path.parent.iterdir()] == ["snapshot"]
        assert dataclasses.replace(read(str(path)), target=found.target) == found


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the rename the old one is whole, at every write and sync on the way."""
    from tests.checks.build import clean

    path = tmp_path / "snapshot"
    write(clean(), str(path))
    seen = []
    fsync = __import__("os").fsync

    def look(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(read(str(path)).panic)

    monkeypatch.setattr("os.fsync", look)
    write(dataclasses.replace(clean(), panic="the new one"), str(path))
    assert seen and set(seen) == {clean().panic}
    assert read(str(path)).panic == "the new one"
