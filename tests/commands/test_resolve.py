# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve``: addresses out of an oops, and with ``-f`` many addresses, beside what the guests said of themselves."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.cli import main
from drgn_unaccepted.commands.resolve import Bulk, resolve
from drgn_unaccepted.model.addresses import Query
from drgn_unaccepted.snapshot import Snapshot, Table, Target, Translation
from drgn_unaccepted.snapshot_file import read
from tests.asking import SAMPLES, UNIT, Capsys, answered, run

SAMPLE = SAMPLES / "6.12-edges" / "vmcore"
TRUTH = json.loads((SAMPLES / "6.12-edges" / "truth.json").read_text())
KDUMP = SAMPLES / "6.12-fill-kdump" / "vmcore"
OLD = Path(__file__).parents[1] / "compatibility" / "kdump.json"

#: The bitmap of this guest begins at 4 GiB and has 55 bytes.
BASE, END = 1 << 32, (1 << 32) + 55 * 8 * UNIT


def ask(capsys: Capsys, *argv: object) -> tuple[int, list[str], str]:
    status, out, err = run(capsys, *argv)
    return status, out.splitlines(), err


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshot") / "file"
    assert main(["-c", str(KDUMP), "snapshot", "-o", str(path)]) == 0
    return path


#: What the page tables in the guest's memory map each address to, followed entry by entry.
MAPPED = {
    "ffffa00de5a00008": ("direct map", 0x125A00008, "unaccepted"),
    "0xffffa00dc0000000": ("direct map", 0x100000000, "accepted"),
    "ffffffff92209f80": ("kernel image", 0x3609F80, "accepted"),
    "0xffffe74080000000": ("page tables", 0x13E600000, "accepted"),
}


def test_addresses_of_an_oops(snapshot: Path, capsys: Capsys) -> None:
    for target in (("-c", KDUMP), ("--snapshot", snapshot)):
        texts = [text for text in MAPPED if target[0] == "-c" or MAPPED[text][0] != "page tables"]
        status, (line,), err = ask(capsys, *target, "resolve", "--format", "json", *texts)
        assert (status, err) == (0, "")
        found: list[dict[str, Any]] = json.loads(line)["addresses"]
        for text, entry in zip(texts, found):
            assert (entry["asked"], entry["virtual"]) == (text, int(text, 16))
            assert (entry["mapping"], entry["address"], entry["state"]) == MAPPED[text]


def test_a_range_of_an_oops(snapshot: Path, capsys: Capsys) -> None:
    status, lines, _ = ask(capsys, "--snapshot", snapshot, "resolve", "ffffa00de5a00000+4M")
    assert (status, lines[0]) == (0, "0x125a00000-0x125e00000   unaccepted       (direct map 0xffffa00de5a00000)")
    status, lines, _ = ask(capsys, "--snapshot", snapshot, "map", "--range", "ffffa00de5a00000+64M", "--format", "json")
    assert (status, json.loads(lines[0])["window"]) == (0, [0x125A00000, 0x129A00000])


@pytest.mark.parametrize(
    ("target", "text", "words"),
    (
        (KDUMP, "0xfff0000000000000", "0xfff0000000000000: not mapped by the page tables"),
        (KDUMP, "ffffafae80001000", "page table at 0x100000000 is not in this target"),
        (KDUMP, "0xffffe74080000000+0x2000", "no page tables at hand"),
        (KDUMP, "ffffffff92209f80+1G", "neither in the direct map"),
        (None, "0xffffe74080000000", "neither in the direct map nor in the kernel image"),
        (OLD, "ffffa00de5a00008", "does not have the place of the direct map"),
    ),
)
def test_what_cannot_be_translated(target: Path, text: str, words: str, snapshot: Path, capsys: Capsys) -> None:
    """It is unknown, with the reason; addresses beside it are answered, and then the status is 0."""
    option = ("-c", KDUMP) if target is KDUMP else ("--snapshot", target or snapshot)
    status, lines, err = ask(capsys, *option, "resolve", text)
    assert (status, lines[0].split()) == (3, [text, "unknown"])
    assert words in err and f"resolve: {text}: " in err and len(err.splitlines()) == 1
    status, (line,), err = ask(capsys, *option, "--format", "json", "resolve", text, "0x1000")
    found, other = json.loads(line)["addresses"]
    assert (status, err, other["state"]) == (0, "", "accepted")
    assert (found["address"], found["state"], found["asked"], found["listed"]) == (None, "unknown", text, None)
    assert words.rpartition(": ")[2] in found["reason"]
    assert found["virtual"] == int(text.partition("+")[0], 16)


def test_a_translation_out_of_a_file_is_bounded(snapshot: Path) -> None:
    odd, virtual = read(str(snapshot)), 0xFFFFE74080000000
    odd = replace(odd, translations=(Translation(virtual, 1 << 60),))
    (entry,) = resolve(odd, judge(odd), [Query(virtual, None, "that")])["addresses"] or ()
    assert (entry["address"], entry["state"]) == (None, "unknown") and "no physical address" in entry["reason"]


@pytest.mark.parametrize("source", ("bitmap", "counters"))
def test_what_is_unknown_has_its_block_too(source: str, capsys: Capsys) -> None:
    status, lines, err = ask(capsys, "-c", KDUMP, "--source", source, "resolve", "0x125a00000", "4G")
    assert status == 3 and len(err.splitlines()) == 1
    assert lines[0] == "0x125a00000   unknown" and lines[1].startswith("why           ")
    assert "zone          node 0 Normal, listed" in lines
    assert max(map(len, lines)) <= 80


def state_of(address: int) -> str:
    """RAM lies where BIOS-e820 in the guest's log has it; 0xb0000000-0xc0000000 is reserved."""
    if address // UNIT in TRUTH["unaccepted_units"]:
        return "unaccepted"
    return "no-ram" if 3 << 30 <= address < BASE or address >= 5 << 30 else "accepted"


def some_addresses() -> list[int]:
    edges = [edge for unit in TRUTH["unaccepted_units"] for edge in (unit * UNIT, unit * UNIT - 1, (unit + 1) * UNIT)]
    rest = [random.Random(1).randrange(3 << 30, 6 << 30) for _ in range(30_000)]
    return [0, BASE - 1, BASE, END - 1, END, *edges, *rest, limits.PHYSICAL_END - 1]


def refused(capsys: Capsys, tmp_path: Path, text: bytes, *options: str) -> str:
    (tmp_path / "addresses").write_bytes(text)
    status, _, err = run(capsys, "-c", SAMPLE, *options, "resolve", "-f", tmp_path / "addresses")
    assert status == 3 and len(err.splitlines()) == 1
    return err


def test_every_address_has_the_state_that_its_guest_told(tmp_path: Path, capsys: Capsys) -> None:
    addresses = some_addresses()
    (tmp_path / "addresses").write_text("".join(f"{address:#x}\n" for address in addresses))
    out = answered(capsys, "-c", SAMPLE, "resolve", "-f", tmp_path / "addresses")
    total, source, blank, *lines = out.splitlines()
    assert total.startswith("unaccepted  460 MiB of 744 MiB") and source == "evidence    the bitmap of the table, exact"
    assert blank == ""
    assert [line.split()[:2] for line in lines] == [[f"{a:#x}", state_of(a)] for a in addresses]
    outside = [line for line in lines if "outside the bitmap" in line]
    assert outside == [f"{a:#x}  {state_of(a):>10}  (outside the bitmap)" for a in addresses if not BASE <= a < END]
    out = answered(capsys, "-c", SAMPLE, "resolve", "-f", tmp_path / "addresses", "--format", "json")
    first, *entries = map(json.loads, out.splitlines())
    assert (first["schema"], first["command"], first["addresses"]) == ("drgn-unaccepted/1", "resolve", None)
    assert first["table"]["address"] == TRUTH["table_address"]
    assert entries == [{"address": a, "state": state_of(a), "covered": BASE <= a < END} for a in addresses]


def test_every_way_to_write_an_address(tmp_path: Path, capsys: Capsys) -> None:
    """As resolve's arguments take it; the usual form is read in another way than the others."""
    (tmp_path / "addresses").write_text("4G\t0X100000000 0x1_\n".replace("1_", "100000001") + "\n\n  4096M 0\n5120m")
    out = answered(capsys, "-c", SAMPLE, "resolve", "-f", tmp_path / "addresses", "--format", "json")
    entries = [json.loads(line)["address"] for line in out.splitlines()[1:]]
    assert entries == [1 << 32, 1 << 32, (1 << 32) + 1, 1 << 32, 0, 5 << 30]


def test_what_cannot_be_translated_is_unknown_and_the_others_are_answered(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "addresses").write_text("0xfff0000000000000 4G\n")
    argv = ("-c", SAMPLE, "resolve", "-f", tmp_path / "addresses")
    first, second = answered(capsys, *argv).splitlines()[3:]
    assert first.startswith("0xfff0000000000000     unknown  (neither in the direct map ")
    assert second == "4G    accepted"
    first, second = map(json.loads, answered(capsys, *argv, "--format", "json").splitlines()[1:])
    assert (first.pop("reason")[:7], second["state"]) == ("neither", "accepted")
    assert first == {"address": None, "state": "unknown", "covered": None, "asked": "0xfff0000000000000"}


@pytest.mark.parametrize("source", ("page-lists", "auto"))
def test_without_the_table_it_is_what_resolve_says_of_each(source: str, tmp_path: Path, capsys: Capsys) -> None:
    truth = json.loads((KDUMP.parent / "truth.json").read_text())
    units = [*random.Random(2).sample(truth["unaccepted_units"], 20), 0, 2048, 2100, 2400, 1 << 20]
    addresses = [unit * UNIT + 4096 for unit in units]
    argv = ["-c", KDUMP, "--source", source, "--format", "json", "resolve"]
    (tmp_path / "addresses").write_text("".join(f"{address:#x}\n" for address in addresses))
    out = answered(capsys, *argv, "-f", tmp_path / "addresses")
    first, *entries = map(json.loads, out.splitlines())
    assert (first["source"], first["exact"]) == (("reconstructed", True) if source == "auto" else ("page-lists", False))
    assert {entry["state"] for entry in entries[:20]} == {"unaccepted"}
    _, out, _ = run(capsys, *argv, *map(hex, addresses))
    one_by_one = json.loads(out)["addresses"]
    assert entries == [{key: entry[key] for key in ("address", "state", "covered")} for entry in one_by_one]


@pytest.mark.parametrize(
    ("text", "words"),
    (
        (b"0x10\n0x20 100000\n", "line 2: 100000: decimal or hexadecimal"),
        (b"0x10\n" * 60_000 + b"\n0x1g\n", "line 60002: 0x1g: not an address"),
        (b"0x1_0\n", "line 1: 0x1_0: not an address"),
        (b"-0x10\n", "line 1: -0x10: not an address"),
        (b"0x10 +0x10\n", "line 1: +0x10: not an address"),
        (b"0x\n", "line 1: 0x: not an address"),
        (b"0x0x1 2\n", "line 1: 0x0x1: not an address"),
        (b"0x10000000000000\n", "line 1: 0x10000000000000: beyond the last physical address"),
        (b"0x10\n\xff\x1b[31m\n", "line 2: \\xff"),
        (b"0x10\n" + b"f" * (1 << 20), "line 2: more than 4096 characters"),
        (b"0x10\n" + b"f" * 100_000 + b"\n", "line 2: more than 4096 characters"),
        (b"0x10\n" + b"1" * 100_000 + b"\n", "line 2: more than 4096 characters"),
    ),
)
def test_what_is_no_address_ends_it_and_is_told(text: bytes, words: str, tmp_path: Path, capsys: Capsys) -> None:
    assert words in refused(capsys, tmp_path, text)


def test_as_long_a_word_as_is_read(tmp_path: Path, capsys: Capsys) -> None:
    """Whether a blank follows it or the text ends there."""
    word = "0x" + "1000".rjust(limits.ADDRESS_TEXT_BYTES - 2, "0")
    (tmp_path / "addresses").write_text(f"0x10\n{word}")
    status, out, _ = run(capsys, "-c", SAMPLE, "resolve", "-f", tmp_path / "addresses")
    assert (status, out.splitlines()[-1].split()[:2]) == (0, [word, "accepted"])
    assert "counters" in refused(capsys, tmp_path, b"0x100000000\n", "--source", "counters")
    words = "line 2: more than 4096 characters without a blank"
    for blank in ("", " ", "\n0x20\n"):
        assert words in refused(capsys, tmp_path, f"0x10\n{word}0{blank}".encode())


def test_a_pipe_is_answered_as_it_is_written() -> None:
    argv = [sys.executable, "-m", "drgn_unaccepted", "-c", str(SAMPLE), "resolve", "-f", "-"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)][1] == b"evidence    the bitmap of the table, exact\n"
        for address in (BASE, TRUTH["unaccepted_units"][0] * UNIT):
            process.stdin.write(b"%#x\n" % address)
            process.stdin.flush()
            # The pipe is still open.
            assert process.stdout.readline().split()[1].decode() == state_of(address)
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("block", range(1, 8))
def test_addresses_cut_in_two(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has its own ideas of where to stop than at the end of a line."""
    monkeypatch.setattr("drgn_unaccepted.commands.resolve._BLOCK", block)
    target = Target("vmcore", None, None, None, "none", "2026-01-01")
    snapshot = Snapshot(target, Table("present", None, 0x1000, 1, UNIT, 0, 1, b"\x0a", "physical"))
    addresses = [random.Random(seed).randrange(10 * UNIT) for seed in range(500)]
    text = "".join(f"{address:#x}{' ' if address % 3 else chr(10)}" for address in addresses).rstrip()
    expected = [("unaccepted" if a // UNIT in (1, 3) else "accepted", a < 8 * UNIT) for a in addresses]
    pipe: Any = io.BufferedReader(io.BytesIO(text.encode()))  # type: ignore[arg-type]
    lines = Bulk(snapshot, judge(snapshot), True).lines(pipe)
    entries = [json.loads(line) for piece in lines for line in piece.splitlines()]
    assert [(e["address"], (e["state"], e["covered"])) for e in entries] == list(zip(addresses, expected))


def test_a_bitmap_with_more_pieces_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address is then looked up by itself: the same answers, in bounded memory."""
    table = Table("present", None, 0x1000, 1, UNIT, 0, 64, b"\x55" * 64, "physical")
    snapshot = Snapshot(Target("vmcore", None, None, None, "none", "2026-01-01"), table)
    text = "".join(f"{address:#x}\n" for address in range(0, 520 * UNIT, UNIT // 3)).encode()
    said = []
    for most in (limits.BULK_PIECES, 100):
        monkeypatch.setattr("drgn_unaccepted.commands.resolve.BULK_PIECES", most)
        bulk = Bulk(snapshot, judge(snapshot), False)
        said.append(list(bulk.lines(io.BufferedReader(io.BytesIO(text)))))  # type: ignore[arg-type]
    assert said[0] == said[1] and "unaccepted" in said[0][0]
