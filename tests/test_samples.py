# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bundled samples: real captures, each with what its guest said of itself. No vmlinux is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import drgn
import pytest

from tests.asking import Capsys, refused, run

SAMPLES = sorted((Path(__file__).parent.parent / "vmcore-samples").glob("*/truth.json"))
MIB = 1 << 20
UNIT = 2 * MIB
PAGE = 4096


def ask(capsys: Capsys, *argv: object) -> tuple[int, Any, str]:
    status, out, err = run(capsys, *argv, "--format", "json")
    return status, json.loads(out) if out else None, err


def truth_of(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def units(ranges: Any, state: str) -> set[int]:
    return {
        n for entry in ranges if entry["state"] == state for n in range(entry["start"] // UNIT, entry["end"] // UNIT)
    }


def named(path: Path) -> str:
    return path.parent.name


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
def test_the_page_lists_of_a_kdump(path: Path, capsys: Capsys) -> None:
    """What they have too much is marked; the judgement of all evidence is exact (tests/answer)."""
    truth = truth_of(path)
    status, answer, _ = ask(capsys, "-c", path.parent / "vmcore", "--source", "page-lists", "ranges")
    assert (status, answer["source"], answer["exact"]) == (0, "page-lists", False)
    assert (answer["table"]["state"], answer["table"]["address"]) == ("not-captured", truth["table_address"])
    assert answer["unaccepted_bytes"] == truth["nr_unaccepted_bytes"]
    unaccepted = set(truth["unaccepted_units"])
    listed = units(answer["ranges"], "unaccepted")
    assert unaccepted <= listed, "nothing unaccepted is missing"
    assert listed - unaccepted <= {start // UNIT for start, _ in answer["possible_guards"]}
    assert not units(answer["ranges"], "accepted") & unaccepted


@pytest.mark.parametrize("path", WITHOUT_TABLE, ids=named)
def test_a_kdump_has_no_bitmap_and_says_why(path: Path, capsys: Capsys) -> None:
    status, answer, err = ask(capsys, "-c", path.parent / "vmcore", "--source", "bitmap", "summary")
    assert status == 3
    assert answer["unaccepted_bytes"] is None and answer["source"] == "none"
    assert len(err.splitlines()) == 1 and "kdump" in err and "ACPI memory" in err


def save_table(sample: Path, truth: dict[str, Any], to: Path) -> str:
    """The table's bytes out of a whole-RAM sample, as somebody would have saved them; returns FILE@ADDR."""
    prog = drgn.Program()
    prog.set_core_dump(str(sample / "vmcore"))
    address = truth["table_address"]
    size = int.from_bytes(prog.read(address + 16, 8, physical=True), "little")
    to.write_bytes(prog.read(address, 24 + size, physical=True))
    return f"{to}@{address:#x}"


@pytest.mark.parametrize("path", WITHOUT_TABLE, ids=named)
def test_a_saved_table_makes_a_kdump_as_good_as_the_bitmap(path: Path, capsys: Capsys, tmp_path: Path) -> None:
    truth = truth_of(path)
    table = save_table(path.parent.parent / path.parent.name.replace("-kdump", ""), truth, tmp_path / "table")
    status, answer, _ = ask(capsys, "-c", path.parent / "vmcore", "--table", table, "ranges")
    assert status == 0
    assert (answer["source"], answer["exact"]) == ("reconstructed", True)
    assert "may have been another boot" in answer["source_reason"] or "boot is not known" in answer["source_reason"]
    assert units(answer["ranges"], "unaccepted") == set(truth["unaccepted_units"])


@pytest.mark.parametrize("path", WITHOUT_TABLE, ids=named)
def test_what_was_accepted_since_the_table_was_saved(path: Path, capsys: Capsys, tmp_path: Path) -> None:
    """All bits set, as right after boot: the lists say which of them still are, and pages in use which are not."""
    truth = truth_of(path)
    table = save_table(path.parent.parent / path.parent.name.replace("-kdump", ""), truth, tmp_path / "table")
    data = bytearray((tmp_path / "table").read_bytes())
    data[24:] = b"\xff" * (len(data) - 24)
    (tmp_path / "table").write_bytes(data)
    _, answer, _ = ask(capsys, "-c", path.parent / "vmcore", "--table", table, "ranges")
    unaccepted = set(truth["unaccepted_units"])
    assert unaccepted <= units(answer["ranges"], "unaccepted")
    accepted = units(answer["ranges"], "accepted")
    assert accepted and accepted.isdisjoint(unaccepted)


def test_a_table_of_another_address_is_refused(capsys: Capsys, tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(bytes(100))
    table = f"{tmp_path / 'table'}@0x1000"
    assert "another table" in refused(capsys, "-c", WITHOUT_TABLE[0].parent / "vmcore", "--table", table, "summary")


@pytest.mark.parametrize("path", SAMPLES, ids=named)
def test_check_raises_no_false_alarm(path: Path, capsys: Capsys) -> None:
    """Healthy guests, but for the accept that killed one. None is TDX or SNP, and all but that one accepted memory."""
    status, answer, _ = ask(capsys, "-c", path.parent / "vmcore", "check")
    failed = {f["rule"] for f in answer["findings"] if f["status"] in ("warning", "critical")}
    died = {"platform-can-accept", "accepting-ranges-sane"} if named(path) in MOVING else set()
    assert (status, failed) == (2 if died else 0, died)


@pytest.mark.parametrize("path", SAMPLES, ids=named)
def test_no_kernel_text(path: Path) -> None:
    prog = drgn.Program()
    prog.set_core_dump(str(path.parent / "vmcore"))
    start, end = truth_of(path)["kernel_text"]
    assert end - start > MIB
    for address in range(start // PAGE * PAGE, end, PAGE):
        with pytest.raises(drgn.FaultError):
            prog.read(address, 8, physical=True)
