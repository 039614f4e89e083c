# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bundled samples: real captures, each with what its guest said of itself. No vmlinux is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import drgn
import pytest

from drgn_unaccepted.cli import main

SAMPLES = sorted((Path(__file__).parent.parent / "vmcore-samples").glob("*/truth.json"))
MIB = 1 << 20
UNIT = 2 * MIB
PAGE = 4096

Capsys = pytest.CaptureFixture[str]


def ask(capsys: Capsys, *argv: object) -> tuple[int, Any, str]:
    status = main([*map(str, argv), "--format", "json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else None, err


def truth_of(path: Path) -> Any:
    return json.loads(path.read_text())


def named(path: Path) -> str:
    return path.parent.name


def units(ranges: Any, state: str) -> set[int]:
    return {
        n for entry in ranges if entry["state"] == state for n in range(entry["start"] // UNIT, entry["end"] // UNIT)
    }


WITH_TABLE = [path for path in SAMPLES if truth_of(path)["has_table"]]
WITHOUT_TABLE = [path for path in SAMPLES if not truth_of(path)["has_table"]]
#: Died while it was accepting, a little after its account was taken.
MOVING = ("6.12-panic",)


@pytest.mark.parametrize("path", WITH_TABLE, ids=named)
def test_unaccepted_is_what_the_guest_did_not_accept(path: Path, capsys: Capsys) -> None:
    truth = truth_of(path)
    status, answer, err = ask(capsys, "-c", path.parent / "vmcore", "ranges")
    assert (status, err) == (0, "")
    assert (answer["source"], answer["exact"]) == ("bitmap", True)
    assert answer["table"]["address"] == truth["table_address"]
    assert answer["target"]["release"] == truth["kernel_release"]
    unaccepted = units(answer["ranges"], "unaccepted")
    if named(path) in MOVING:
        assert unaccepted <= set(truth["unaccepted_units"])
    else:
        assert unaccepted == set(truth["unaccepted_units"])
        assert answer["nr_unaccepted_bytes"] == truth["nr_unaccepted_bytes"]


@pytest.mark.parametrize("path", WITHOUT_TABLE, ids=named)
def test_a_kdump_answers_from_the_page_lists(path: Path, capsys: Capsys) -> None:
    truth = truth_of(path)
    status, answer, _ = ask(capsys, "-c", path.parent / "vmcore", "ranges")
    assert status == 0
    assert (answer["source"], answer["exact"]) == ("page-lists", False)
    assert (answer["table"]["state"], answer["table"]["address"]) == ("not-captured", truth["table_address"])
    assert answer["unaccepted_bytes"] == truth["nr_unaccepted_bytes"]
    unaccepted = set(truth["unaccepted_units"])
    listed = units(answer["ranges"], "unaccepted")
    guards = {start // UNIT for start, _ in answer["possible_guards"]}
    assert unaccepted <= listed, "nothing unaccepted is missing"
    assert listed - unaccepted <= guards, "and what is too much is marked"
    assert not units(answer["ranges"], "accepted") & unaccepted


@pytest.mark.parametrize("path", WITHOUT_TABLE, ids=named)
def test_a_kdump_has_no_bitmap_and_says_why(path: Path, capsys: Capsys) -> None:
    status, answer, err = ask(capsys, "-c", path.parent / "vmcore", "--source", "bitmap", "summary")
    assert status == 3
    assert answer["unaccepted_bytes"] is None and answer["source"] == "none"
    assert len(err.splitlines()) == 1 and "kdump" in err and "ACPI memory" in err


def save_table(kdump: Path, truth: dict[str, Any], to: Path) -> str:
    """The table's bytes out of the whole-RAM sample, as somebody would have saved them; returns FILE@ADDR."""
    prog = drgn.Program()
    prog.set_core_dump(str(SAMPLES[0].parents[1] / named(kdump).replace("-kdump", "") / "vmcore"))
    address = truth["table_address"]
    size = int.from_bytes(prog.read(address + 16, 8, physical=True), "little")
    to.write_bytes(prog.read(address, 24 + size, physical=True))
    return f"{to}@{address:#x}"


@pytest.mark.parametrize("path", WITHOUT_TABLE, ids=named)
def test_a_saved_table_makes_a_kdump_as_good_as_the_bitmap(path: Path, capsys: Capsys, tmp_path: Path) -> None:
    truth = truth_of(path)
    table = save_table(path, truth, tmp_path / "table")
    status, answer, _ = ask(capsys, "-c", path.parent / "vmcore", "--table", table, "ranges")
    assert status == 0
    assert (answer["source"], answer["exact"]) == ("bitmap", False)
    assert "saved earlier" in answer["source_reason"]
    assert units(answer["ranges"], "unaccepted") == set(truth["unaccepted_units"])
    assert units(answer["ranges"], "accepted").isdisjoint(truth["unaccepted_units"])
    other = f"{tmp_path / 'table'}@0x1000"
    assert main(["-c", str(path.parent / "vmcore"), "--table", other, "summary"]) == 3
    assert "another table" in capsys.readouterr().err


@pytest.mark.parametrize("path", WITHOUT_TABLE, ids=named)
def test_what_was_accepted_since_the_table_was_saved(path: Path, capsys: Capsys, tmp_path: Path) -> None:
    """All bits set, as right after boot: the lists say which of them still are, and pages in use which are not."""
    truth = truth_of(path)
    table = save_table(path, truth, tmp_path / "table")
    data = bytearray((tmp_path / "table").read_bytes())
    data[24:] = b"\xff" * (len(data) - 24)
    (tmp_path / "table").write_bytes(data)
    _, answer, _ = ask(capsys, "-c", path.parent / "vmcore", "--table", table, "ranges")
    unaccepted = set(truth["unaccepted_units"])
    assert unaccepted <= units(answer["ranges"], "unaccepted")
    accepted = units(answer["ranges"], "accepted")
    assert accepted and accepted.isdisjoint(unaccepted)


@pytest.mark.parametrize("path", SAMPLES, ids=named)
def test_check_raises_no_false_alarm(path: Path, capsys: Capsys) -> None:
    """Healthy guests, but for the accept that killed one. None is TDX or SNP, and check is right to say so."""
    status, answer, _ = ask(capsys, "-c", path.parent / "vmcore", "check")
    failed = {f["rule"] for f in answer["findings"] if f["status"] in ("warning", "critical")}
    assert (status, failed) == (1, {"platform-can-accept"})


@pytest.mark.parametrize("path", SAMPLES, ids=named)
def test_no_kernel_text(path: Path) -> None:
    prog = drgn.Program()
    prog.set_core_dump(str(path.parent / "vmcore"))
    start, end = truth_of(path)["kernel_text"]
    assert end - start > MIB
    for address in range(start // PAGE * PAGE, end, PAGE):
        with pytest.raises(drgn.FaultError):
            prog.read(address, 8, physical=True)
