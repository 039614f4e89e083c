# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: what it refuses, with which words and which exit status."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.asking import Capsys, answered, refused, run

SAMPLE = Path(__file__).parent.parent / "vmcore-samples" / "6.12-fill" / "vmcore"
PHYSICAL_LAST = 0xFFFFFFFFFFFFF


@pytest.mark.parametrize(
    ("argv", "words"),
    (
        ("--no-such", "--no-such: no such option"),
        ("-x", "-x: no such option"),
        ("--fromat json", "--fromat: no such option; did you mean --format?"),
        ("chek", "chek: no such command; did you mean check?"),
        ("check foo", "unrecognized arguments: foo"),
        ("check --rule", "--rule: expected one argument"),
        ("--source guess", "--source: guess: no such choice; there are auto, bitmap, reconstructed"),
        ("--source page-list", "--source: page-list: no such choice; did you mean page-lists?"),
        ("--format xml", "--format xml: summary has text, json"),
        ("map --range 5G-4G", "5G-4G: the range ends before it starts"),
        ("resolve -v=x 4G", "-v"),
        ("resolve", "resolve: which address? for example: resolve 0x125a00000, or -f FILE"),
        *((f"{words} ''", f"{words}: an empty value") for words in "-s --log --table --vmcoreinfo".split()),
        *((f"{words} ''", f"{words}: an empty value") for words in "-c --snapshot --qemu --raw --sos".split()),
        *((f"{words} -o ''", f"{words}: -o: an empty value") for words in "snapshot report map scan merge".split()),
        *((f"{words} ''", f"{words}: ") for words in "scan merge replay resolve".split()),
        ("merge /nonexistent", "/nonexistent: no such file or directory"),
        ("merge /dev/null", "/dev/null: not a regular file"),
        ("-c dump scan .", "scan reads files of its own: it takes no --core"),
        ("resolve 4G -f -", "resolve: -f/--file or 4G: one of them"),
        ("resolve 4G 125a00000", "resolve: 125a00000: not an address: did you mean 0x125a00000?"),
    ),
)
def test_a_usage_error_names_the_word_and_is_3_and_not_2(argv: str, words: str, capsys: Capsys) -> None:
    assert words in refused(capsys, *shlex.split(argv))


def test_help_of_a_command_is_about_the_command(capsys: Capsys) -> None:
    out = answered(capsys, "check", "--help")
    assert "--explain" in out and "example: drgn-unaccepted -c vmcore check --format nagios" in out
    assert "--debug-info" not in out
    assert "drgn-unaccepted --help" in out
    assert max(map(len, run(capsys, "--help")[1].splitlines())) <= 80


def test_resolve_at_every_edge(capsys: Capsys) -> None:
    """The guest's account: type 15 is 0x100000000-0x138000000; see truth.json for what it accepted."""
    truth = json.loads((SAMPLE.parent / "truth.json").read_text())
    (start, end), unit, unaccepted = truth["type15"][0], 2 << 20, set(truth["unaccepted_units"])
    edges = [n * unit for n in unaccepted if not {n - 1, n + 1} <= unaccepted]
    edges += [edge + unit for edge in edges]
    addresses = [0, 0x1000, start - 1, start, end - 1, end, PHYSICAL_LAST, *edges, *(edge - 1 for edge in edges)]
    out = answered(capsys, "-c", SAMPLE, "--format", "json", "resolve", *map(hex, addresses))
    for address, entry in zip(addresses, json.loads(out)["addresses"]):
        inside, set_ = start <= address < end, address // unit in unaccepted
        assert (entry["address"], entry["covered"]) == (address, inside)
        state = "no-ram" if 3 << 30 <= address < 4 << 30 or address >= 5 << 30 else "accepted"
        assert entry["state"] == ("unaccepted" if set_ else state)
        first = address // unit * unit
        bit = {"index": (first - start) // unit, "start": first, "end": first + unit, "bit": int(set_)}
        assert entry["unit"] == (bit if inside else None)
        if inside:
            guarded = address % unit >= unit - 4096 and address // unit + 1 in unaccepted
            assert entry["kernel_predicate"] is (set_ or guarded)
            assert entry["efi"] == {"type": 15, "name": "Unaccepted", "start": start, "end": end}
            assert entry["e820"]["start"] == 4 << 30 and entry["e820"]["name"] == "RAM"


def test_a_snapshot_answers_as_its_target_did(capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    answered(capsys, "-c", SAMPLE, "snapshot", "-o", path)
    for command in (["header"], ["ranges"], ["zones"], ["efi"], ["e820"], ["accepting"], ["check"]):
        status, out, _ = run(capsys, "-c", SAMPLE, *command, "--format", "json")
        again, out_again, _ = run(capsys, "--snapshot", path, *command, "--format", "json")
        first, second = json.loads(out), json.loads(out_again)
        assert second["target"]["kind"] == "snapshot" and second["target"]["path"] == str(path)
        del first["target"], second["target"]
        # A command reads only what it needs; the file has it all.
        known = {key: value for key, value in first.items() if value is not None}
        assert (again, {key: second[key] for key in known}) == (status, known)


@pytest.fixture
def snapshot_file(tmp_path: Path, capsys: Capsys) -> Path:
    path = tmp_path / "snapshot.json"
    assert run(capsys, "-c", SAMPLE, "snapshot", "-v", "-o", path)[0] == 0
    return path


@pytest.mark.parametrize(
    ("argv", "said"),
    (
        ("--snapshot {file} --table /nonexistent", "--table"),
        ("--snapshot {file} -s /nonexistent", "-s"),
        ("--snapshot {file} --vmcoreinfo no", "--vmcoreinfo"),
        ("--snapshot {file} --debug-info btf", "--debug-info"),
        # It would have been the running kernel.
        ("--snapshot {file} record --count 1 -o {dir}/recording", "record"),
        ("-c {sample} --table {file} record --count 1 -o {dir}/recording", "record"),
        ("--vmcoreinfo file summary", "-c"),
        ("-c {file}", "--snapshot"),
        ("-c {dir}/nothing", "No such file"),
        ("-c {dir}", "a directory, without a vmcore"),
        (f"-c {Path(__file__).with_name('__init__.py')}", "empty file"),
        (f"-c {{sample}} -s {os.path.realpath(sys.executable)}", "build-id"),
        ("--snapshot {sample}", "give it with -c"),
        ("-c {sample} snapshot -o {dir}/no/file", "No such file"),
        ("-c {sample} --table @0x1000", "@0x1000: No such file"),
        ("--raw @0x1000", "@0x1000: No such file"),
        ("--log {sample}", "give it with -c"),
    ),
)
def test_what_does_not_go_together(argv: str, said: str, snapshot_file: Path, tmp_path: Path, capsys: Capsys) -> None:
    assert said in refused(capsys, *argv.format(file=snapshot_file, sample=SAMPLE, dir=tmp_path).split())
    assert list(tmp_path.iterdir()) == [snapshot_file]


@pytest.mark.parametrize("command", ("check", "summary", "scan"))
def test_an_exception_that_nobody_foresaw_is_one_line_and_3(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    """1 and 2 are findings of check; a defect of this program is none."""

    def fail(*_: object) -> None:
        raise RuntimeError("two\nlines\x1b[2J")

    monkeypatch.setattr("drgn_unaccepted.cli.run", fail)
    argv = [command, *(("x",) if command == "scan" else ())]
    words = r"RuntimeError: two lines\x1b[2J (--debug shows the traceback)"
    assert run(capsys, *argv) == (3, "", f"drgn-unaccepted: internal error: {words}\n")
    error = run(capsys, "--debug", *argv)[2]
    assert "Traceback" in error and error.splitlines()[-1].startswith("drgn-unaccepted: internal error")


_INTERRUPTED = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "argparse":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
from drgn_unaccepted.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("words", "status"),
    (
        ("-c /nonexist check 2>/dev/full", 3),
        ("-c /nonexist check 2>&-", 3),
        (f"-c {SAMPLE} check >&-", 3),
        (f"-c {SAMPLE} check 2>&- >/dev/null", 0),
        (f"scan {SAMPLE} 2>/dev/full", 0),
    ),
)
def test_the_status_is_the_answers_whatever_the_streams_are(words: str, status: int) -> None:
    """1 would be a warning."""
    command = f"{sys.executable} -m drgn_unaccepted {words}"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert found.returncode == status and "internal error" not in found.stderr


def test_an_interrupt_while_it_imports_is_quiet() -> None:
    done = subprocess.run((sys.executable, "-c", _INTERRUPTED), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
