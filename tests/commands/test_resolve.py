# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``resolve`` prints, and kernel virtual addresses out of an oops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main
from tests import asking
from tests.asking import Capsys

TOP = Path(__file__).parent.parent.parent
KDUMP = TOP / "vmcore-samples" / "6.12-fill-kdump" / "vmcore"
OLD = TOP / "tests" / "compatibility" / "kdump.json"


def run(capsys: Capsys, *argv: object) -> tuple[int, list[str], str]:
    status, out, err = asking.run(capsys, *argv)
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
        status, (line,), err = run(capsys, *target, "resolve", "--format", "json", *texts)
        assert (status, err) == (0, "")
        found: list[dict[str, Any]] = json.loads(line)["addresses"]
        for text, entry in zip(texts, found):
            assert (entry["asked"], entry["virtual"]) == (text, int(text, 16))
            assert (entry["mapping"], entry["address"], entry["state"]) == MAPPED[text]


def test_a_range_of_an_oops(snapshot: Path, capsys: Capsys) -> None:
    status, lines, _ = run(capsys, "--snapshot", snapshot, "resolve", "ffffa00de5a00000+4M")
    assert (status, lines[0]) == (0, "0x125a00000-0x125e00000   unaccepted       (direct map 0xffffa00de5a00000)")
    status, lines, _ = run(capsys, "--snapshot", snapshot, "map", "--range", "ffffa00de5a00000+64M", "--format", "json")
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
    status, lines, err = run(capsys, *option, "resolve", text)
    assert (status, lines[0].split()) == (3, [text, "unknown"])
    assert words in err and f"resolve: {text}: " in err and len(err.splitlines()) == 1
    status, (line,), err = run(capsys, *option, "--format", "json", "resolve", text, "0x1000")
    found, other = json.loads(line)["addresses"]
    assert (status, err, other["state"]) == (0, "", "accepted")
    assert (found["address"], found["state"], found["asked"], found["listed"]) == (None, "unknown", text, None)
    assert words.rpartition(": ")[2] in found["reason"]
    assert found["virtual"] == int(text.partition("+")[0], 16)


@pytest.mark.parametrize("source", ("bitmap", "counters"))
def test_what_is_unknown_has_its_block_too(source: str, capsys: Capsys) -> None:
    status, lines, err = run(capsys, "-c", KDUMP, "--source", source, "resolve", "0x125a00000", "4G")
    assert status == 3 and len(err.splitlines()) == 1
    assert lines[0] == "0x125a00000   unknown" and lines[1].startswith("why           ")
    assert "zone          node 0 Normal, listed" in lines
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    (
        ([], "resolve: which address? for example: resolve 0x125a00000, or -f FILE"),
        ([""], "resolve: which address?"),
        (["4G", "-f", "-"], "resolve: -f/--file or 4G: one of them"),
        (["4G", "125a00000"], "resolve: 125a00000: not an address: did you mean 0x125a00000?"),
    ),
)
def test_no_question(words: list[str], said: str, capsys: Capsys) -> None:
    status, lines, err = run(capsys, "-c", "/nonexistent", "resolve", *words)
    assert (status, lines) == (3, []) and err.startswith(f"drgn-unaccepted: {said}")
