# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: what it refuses, with which words and which exit status."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from drgn_unaccepted.cli import main

SAMPLE = Path(__file__).parent.parent / "vmcore-samples" / "6.12-fill" / "vmcore"
PHYSICAL_LAST = 0xFFFFFFFFFFFFF

Capsys = pytest.CaptureFixture[str]


def run(capsys: Capsys, *argv: object) -> tuple[int, str, str]:
    try:
        status = main([str(argument) for argument in argv])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def refused(capsys: Capsys, *argv: object) -> str:
    """The one line with which it was refused."""
    status, out, err = run(capsys, *argv)
    assert status == 3
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_a_missing_file(capsys: Capsys, tmp_path: Path) -> None:
    assert "No such file" in refused(capsys, "-c", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "words"),
    (
        (b"", "empty file"),
        (b"hello world\n" * 100, "not a dump"),
        (b"KDUMP   " + bytes(100), "header"),
        (b"makedumpfile\0\0\0\0" + bytes(8000), "flattened"),
        (Path(sys.executable).resolve().read_bytes()[:4096], "not a dump"),
    ),
)
def test_no_dump(content: bytes, words: str, capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert words in refused(capsys, "-c", path)


@pytest.mark.parametrize("kept", (100, 5000, 20000, 100000, 1000000))
def test_a_truncated_dump(kept: int, capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(SAMPLE.read_bytes()[:kept])
    assert str(path) in refused(capsys, "-c", path)


def test_a_directory(capsys: Capsys, tmp_path: Path) -> None:
    assert "directory" in refused(capsys, "-c", tmp_path).lower()


def test_symbols_of_another_kernel_name_both_build_ids(capsys: Capsys) -> None:
    err = refused(capsys, "-c", SAMPLE, "-s", os.path.realpath(sys.executable))
    assert "build-id" in err


def test_symbols_that_are_none(capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_text("not an ELF file")
    assert "not an ELF file" in refused(capsys, "-c", SAMPLE, "-s", path)


@pytest.mark.parametrize("argv", (["--no-such"], ["no-such"], ["resolve"], ["--source", "guess"], ["--format", "xml"]))
def test_a_usage_error_is_3_and_not_2(argv: list[str], capsys: Capsys) -> None:
    refused(capsys, "-c", SAMPLE, *argv)


@pytest.mark.parametrize(
    "address",
    ("12345", "100000000", "0x", "0xg", "4Q", "-1", "0x10000000000000", "0x2000-0x1000", "0x1000+0", "", "1.5G"),
)
def test_no_address(address: str, capsys: Capsys) -> None:
    refused(capsys, "-c", SAMPLE, "resolve", "--", address)


def resolve(capsys: Capsys, *queries: object) -> list[dict[str, object]]:
    status, out, err = run(capsys, "-c", SAMPLE, "--format", "json", "resolve", *queries)
    assert (status, err) == (0, "")
    found: list[dict[str, object]] = json.loads(out)["addresses"]
    return found


def test_resolve_at_every_edge(capsys: Capsys) -> None:
    """The guest's account: type 15 is 0x100000000-0x138000000; see truth.json for what it accepted."""
    truth = json.loads((SAMPLE.parent / "truth.json").read_text())
    start, end = truth["type15"][0]
    unit = 2 << 20
    unaccepted = set(truth["unaccepted_units"])
    addresses = [0, 0x1000, start - 1, start, end - 1, end, PHYSICAL_LAST]
    for number in sorted(unaccepted):
        if number - 1 not in unaccepted or number + 1 not in unaccepted:
            addresses += [number * unit - 1, number * unit, number * unit + unit - 1, number * unit + unit]
    for address, entry in zip(addresses, resolve(capsys, *map(hex, addresses))):
        inside = start <= address < end
        assert entry["address"] == address
        assert entry["covered"] is inside
        state = "no-ram" if 3 << 30 <= address < 4 << 30 or address >= 5 << 30 else "accepted"
        assert entry["state"] == ("unaccepted" if address // unit in unaccepted else state)
        if inside:
            first = address // unit * unit
            assert entry["unit"] == {
                "index": (first - start) // unit,
                "start": first,
                "end": first + unit,
                "bit": int(address // unit in unaccepted),
            }
            last_page = address // 4096 == (first + unit) // 4096 - 1
            guarded = last_page and address // unit + 1 in unaccepted
            assert entry["kernel_predicate"] is (address // unit in unaccepted or guarded)
        else:
            assert entry["unit"] is None


def test_resolve_at_the_edges_of_an_efi_descriptor(capsys: Capsys) -> None:
    """The one type 15 descriptor that the guest's loader handed over; what lies around it is of another type."""
    start, end = json.loads((SAMPLE.parent / "truth.json").read_text())["type15"][0]
    first, last, after = (entry["efi"] for entry in resolve(capsys, hex(start), hex(end - 1), hex(end)))
    assert first == last == {"type": 15, "name": "Unaccepted", "start": start, "end": end}
    assert after is None or after != first
    (e820,) = {json.dumps(entry["e820"]) for entry in resolve(capsys, "4G", hex(end - 1))}
    assert json.loads(e820)["start"] == 4 << 30 and json.loads(e820)["name"] == "RAM"


def test_resolve_of_a_range_is_cut_where_the_state_changes(capsys: Capsys) -> None:
    truth = json.loads((SAMPLE.parent / "truth.json").read_text())
    unit = 2 << 20
    entries = resolve(capsys, "0-5G")
    at = 0
    for entry in entries:
        assert entry["address"] == at
        assert isinstance(entry["end"], int)
        at = entry["end"]
    assert at == 5 << 30
    unaccepted = {
        n
        for entry in entries
        if entry["state"] == "unaccepted"
        for n in range(int(str(entry["address"])) // unit, int(str(entry["end"])) // unit)
    }
    assert unaccepted == set(truth["unaccepted_units"])


def test_the_three_ways_to_write_a_range_are_one(capsys: Capsys) -> None:
    ways = [resolve(capsys, way) for way in ("4G-5G", "0x100000000-0x140000000", "4096M+1G")]
    states = [[{**entry, "asked": None} for entry in way] for way in ways]
    assert states[0] == states[1] == states[2]


def test_options_stand_before_and_after_the_command(capsys: Capsys) -> None:
    before = run(capsys, "-c", SAMPLE, "--source", "counters", "summary")
    after = run(capsys, "summary", "--source", "counters", "-c", SAMPLE)
    assert before == after and before[0] == 0


def test_counters_know_no_addresses(capsys: Capsys) -> None:
    assert "no addresses" in refused(capsys, "-c", SAMPLE, "--source", "counters", "ranges")


def test_a_snapshot_answers_as_its_target_did(capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    assert run(capsys, "-c", SAMPLE, "snapshot", "-o", path)[0] == 0
    for command in (["header"], ["ranges"], ["zones"], ["efi"], ["e820"], ["accepting"], ["check"]):
        status, out, _ = run(capsys, "-c", SAMPLE, *command, "--format", "json")
        again, out_again, _ = run(capsys, "--snapshot", path, *command, "--format", "json")
        first, second = json.loads(out), json.loads(out_again)
        assert second["target"]["kind"] == "snapshot" and second["target"]["path"] == str(path)
        del first["target"], second["target"]
        # A command reads only what it needs; the file has it all.
        known = {key: value for key, value in first.items() if value is not None}
        assert (again, {key: second[key] for key in known}) == (status, known)


def test_a_snapshot_that_cannot_be_written_leaves_nothing(capsys: Capsys, tmp_path: Path) -> None:
    refused(capsys, "-c", SAMPLE, "snapshot", "-o", tmp_path / "no" / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def snapshot_file(tmp_path: Path, capsys: Capsys) -> Path:
    path = tmp_path / "snapshot.json"
    assert run(capsys, "-c", SAMPLE, "snapshot", "-o", path)[0] == 0
    return path


@pytest.mark.parametrize(
    "option", (["--table", "/nonexistent"], ["-s", "/nonexistent"], ["--vmcoreinfo", "no"], ["--debug-info", "btf"])
)
def test_what_is_said_of_a_target_is_refused_with_a_snapshot(
    option: list[str], snapshot_file: Path, capsys: Capsys
) -> None:
    assert option[0] in refused(capsys, "--snapshot", snapshot_file, *option)


def test_a_snapshot_is_no_target_to_sample(snapshot_file: Path, tmp_path: Path, capsys: Capsys) -> None:
    """It would have been the running kernel."""
    for argv in (["--snapshot", snapshot_file], ["-c", SAMPLE, "--table", snapshot_file]):
        assert "record" in refused(capsys, *argv, "record", "--count", "1", "-o", tmp_path / "recording")
    assert not (tmp_path / "recording").exists()
    assert "-c" in refused(capsys, "--vmcoreinfo", "file", "summary")


def test_a_dump_and_a_snapshot_are_told_apart(snapshot_file: Path, capsys: Capsys) -> None:
    assert "--snapshot" in refused(capsys, "-c", snapshot_file)
    assert "give it with -c" in refused(capsys, "--snapshot", SAMPLE)


@pytest.mark.parametrize("command", ("check", "summary", "scan"))
def test_an_exception_that_nobody_foresaw_is_one_line_and_3(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 and 2 are findings of check; a defect of this program is none."""

    def fail(*_: object) -> None:
        raise RuntimeError("two\nlines\x1b[2J")

    monkeypatch.setattr("drgn_unaccepted.cli.run", fail)
    assert main([command, *(("x",) if command == "scan" else ())]) == 3
    error = capsys.readouterr().err
    words = r"RuntimeError: two lines\x1b[2J (--debug shows the traceback)"
    assert error == f"drgn-unaccepted: internal error: {words}\n"
    assert main(["--debug", command, *(("x",) if command == "scan" else ())]) == 3
    error = capsys.readouterr().err
    assert "Traceback" in error and error.splitlines()[-1].startswith("drgn-unaccepted: internal error")
