# SPDX-License-Identifier: LGPL-2.1-or-later
"""``%unaccepted`` in drgn's prompt, and the helpers: the same answers as the command line, on a real capture."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import drgn
import drgn.commands
import pytest
from drgn.commands import run_command as run

import drgn_unaccepted
import drgn_unaccepted.plugin  # drgn imports it when a target is set, in a process that allows plugins
from drgn_unaccepted.cli import main, parser
from drgn_unaccepted.commands import COMMANDS, OF_FILES, Question, load, parse
from drgn_unaccepted.run import run as run_command
from drgn_unaccepted.snapshot import Snapshot, Wanted
from tests.asking import SAMPLES, UNIT, Capsys, truth
from tests.checks.build import clean


def open_sample(sample: str) -> drgn.Program:
    prog = drgn.Program()
    prog.set_core_dump(str(SAMPLES / sample / "vmcore"))
    return prog


@pytest.fixture
def prog() -> drgn.Program:
    return open_sample("6.12-fill")


#: Every question, with arguments where it needs some.
WORDS = {
    **{name: name for name in COMMANDS},
    "resolve": "resolve 0x125a00000 0-5G",
    "check": "check --format nagios",
    "map": "map --width 80 --ascii",
    "snapshot": "snapshot -o {}/snapshot",
    "report": "report -o {}/page.html",
    "record": "record -o {}/recording",
}


@pytest.mark.parametrize("name", [name for name in COMMANDS if isinstance(load(name), Question)])
@pytest.mark.parametrize("sample", ("6.12-fill", "7.3-fill-kdump"))
def test_both_doors_say_the_same(name: str, sample: str, tmp_path: Path, capsys: Capsys) -> None:
    words = WORDS[name].format(tmp_path)
    error = ""
    try:
        run(open_sample(sample), f"unaccepted {words}")
    except drgn.commands.CommandError as refused:
        error = str(refused)
    prompt = capsys.readouterr().out
    status = main(["-c", str(SAMPLES / sample / "vmcore"), *words.split()])
    line = capsys.readouterr()
    assert prompt == line.out
    assert error == line.err.strip().removeprefix("drgn-unaccepted: ")
    assert bool(error) == (status == 3)


class _Live:
    """A target that changes while it is read: each sample is the next of these."""

    def __init__(self, *samples: Snapshot) -> None:
        self.left = list(samples)

    def samples(self, wanted: Wanted) -> Iterator[Snapshot]:
        while self.left:
            yield self.left.pop(0)

    def open(self) -> Any:
        raise AssertionError("no question opens a target by itself")


def test_a_live_kernel_is_asked_twice_before_an_alarm(capsys: Capsys) -> None:
    """One flow serves both doors; what only one of two samples shows is no finding."""
    sane = clean()
    sane = replace(sane, target=replace(sane.target, kind="live"))
    assert sane.counters is not None
    torn = replace(sane, counters=replace(sane.counters, unaccepted_pages=12 * 1024))
    command, args = parse(parser(("check",)), ["check"])
    for samples, status, left in (((torn, sane), 0, 0), ((torn, torn), 1, 0), ((sane, torn), 0, 1)):
        target = _Live(*samples)
        assert run_command(command, args, target.open, target.samples) == status, capsys.readouterr().out
        assert len(target.left) == left


class _Terminal(io.StringIO):
    """Knows when something was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_a_target_that_takes_long_shows_progress(monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    terminal = _Terminal()

    class Slow(_Live):
        def samples(self, wanted: Wanted) -> Iterator[Snapshot]:
            assert terminal.written.wait(60)
            yield from super().samples(wanted)

    monkeypatch.setattr(sys, "stderr", terminal)
    command, args = parse(parser(("ranges",)), ["ranges"])
    target = Slow(clean())
    assert run_command(command, args, target.open, target.samples) == 0
    assert "reading the target: 2 s" in terminal.getvalue() and terminal.getvalue().endswith("\r\x1b[K")
    assert capsys.readouterr().out.startswith("unaccepted  34 MiB")


@pytest.mark.parametrize("command", ("--help", "ranges --help", "resolve -h"))
def test_help_is_an_answer_and_no_error(command: str, prog: drgn.Program, capsys: Capsys) -> None:
    run(prog, f"unaccepted {command}")
    out, err = capsys.readouterr()
    assert out.startswith("usage: %unaccepted") and err == ""
    assert command != "--help" or all((f"\n    {name} " in out) == (name not in OF_FILES) for name in COMMANDS)
    assert command != "ranges --help" or "example: %unaccepted ranges\n" in out


@pytest.mark.parametrize(
    ("words", "said"),
    (
        ("chek", "chek: no such command; did you mean check?"),
        ("scan /var/crash", "scan: no such command; there are summary, "),
        ("check --rool x", "--rool: no such option; did you mean --rule?"),
        ("-c vmcore", "-c: no such option"),
        ("resolve 125a00000", "resolve: 125a00000: not an address: did you mean 0x125a00000?"),
        ("resolve 125a00000 --drgn", "resolve: 125a00000: not an address: did you mean 0x125a00000?"),
        ("--source counters ranges", "source counters knows no addresses"),
    ),
)
@pytest.mark.parametrize("crash", (False, True))
def test_what_is_no_command_is_said_in_a_line(
    words: str, said: str, crash: bool, prog: drgn.Program, capsys: Capsys
) -> None:
    with pytest.raises(drgn.commands.CommandError) as refused:
        run(prog, f"{'crash ' if crash else ''}unaccepted {words}")
    assert said in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert capsys.readouterr() == ("", "")


def test_crash_mode_has_the_same_command(capsys: Capsys) -> None:
    """As the first command, on a dump without debuginfo; after it drgn's own commands work."""
    run(open_sample("6.12-fill-kdump"), "unaccepted ranges")
    expected = capsys.readouterr().out
    prog = open_sample("6.12-fill-kdump")
    run(prog, "crash unaccepted ranges")
    assert capsys.readouterr().out == expected
    run(prog, "crash sys")
    assert "sysrq triggered crash" in capsys.readouterr().out
    run(prog, "crash help unaccepted")
    assert "resolve ADDR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "text", "words"),
    (
        ("%unaccepted re", "re", ["record ", "report ", "resolve "]),
        ("%unaccepted check --rule table-al", "al", ["aligned "]),
        ("%unaccepted --format json zones --source page-", "", ["lists "]),
        ("%unaccepted check --format n", "n", ["nagios "]),
        ("%unaccepted check --expl", "expl", ["explain "]),
        ("%unaccepted no-such x", "x", []),
        ("%unaccepted resolve 0x", "0x", []),
        ("pri", "pri", ["prio", "print("]),
        ("unaccepted re", "re", ["record ", "report ", "resolve "]),
        ("una", "una", ["unaccepted"]),
    ),
)
def test_tab_completes_at_both_prompts(
    line: str, text: str, words: list[str], prog: drgn.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drgn.commands._crash import _CrashCompleter
    from drgn.internal import repl, rlcompleter

    delimiters = repl.readline.get_completer_delims()
    completer: Any = _CrashCompleter(prog) if line[:3] == "una" else rlcompleter.Completer({"prio": 1})
    repl.readline.set_completer_delims(delimiters)
    monkeypatch.setattr(repl.readline, "get_line_buffer", lambda: f"{line} and more")
    monkeypatch.setattr(repl.readline, "get_endidx", lambda: len(line))
    monkeypatch.setattr(repl.readline, "get_begidx", lambda: len(line) - len(text))
    assert [completer.complete(text, state) for state in range(len(words) + 1)] == [*sorted(words), None]


def test_a_drgn_with_another_crash_mode_is_named_in_a_line() -> None:
    code = "import sys, drgn; sys.modules['drgn.commands._crash.common'] = None; import drgn_unaccepted.plugin"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("crash mode has no command unaccepted: unknown version of drgn")


@pytest.mark.parametrize("sample", ("6.12-fill", "6.12-fill-kdump"))
def test_the_code_that_does_the_same(sample: str, capsys: Capsys) -> None:
    prog = open_sample(sample)
    drgn.set_default_prog(prog)
    made: dict[str, Any] = {}
    try:
        for name in COMMANDS.keys() - OF_FILES:
            words = {"resolve": "0x125a00000 [mem 0x1000-0x1fff]", "check": "", "map": "--ascii"}
            run(prog, f"unaccepted {name} {words.get(name, '-o x' if WORDS[name] != name else '')} --drgn")
            exec(capsys.readouterr().out, made)
    finally:
        drgn.set_default_prog(None)
    assert made["ranges"] == [(0x125A00000, 0x128000000), (0x128600000, 0x138000000)]
    assert [piece.state for piece in made["resolve"]] == ["unaccepted", "accepted"]
    assert made["header"].address == truth(sample)["table_address"]
    assert made["summary"].bounds == (288 << 20, 288 << 20) and len(made["zones"]) == 3
    assert made["check"] and made["snapshot"].table == made["header"] and made["accepting"] == []
    assert made["efi"].memory(15) == [(1 << 32, 0x138000000)] and made["e820"][-1].end == 0x140000000


def test_drgn_finds_the_plugin_by_its_entry_point() -> None:
    code = "from drgn.commands import run_command; run_command(prog, 'unaccepted header')"
    vmcore = str(SAMPLES / "6.12-fill" / "vmcore")
    argv = [sys.executable, "-m", "drgn", "-q", "-c", vmcore, "--no-default-symbols", "-e", code]
    environment = {**os.environ, "DRGN_PLUGINS": "unaccepted=drgn_unaccepted.plugin"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert "phys_base" in done.stdout, done.stderr


@pytest.mark.parametrize("sample", ("6.12-fill", "6.12-fill-kdump", "7.3-fill-kdump"))
def test_the_helpers(sample: str) -> None:
    """The kdumps were booted with efi=debug: the EFI memory map, lists and pages prove every unit."""
    known, prog = truth(sample), open_sample(sample)
    table = drgn_unaccepted.efi_unaccepted_table(prog)
    assert table.state == ("present" if known["has_table"] else "not-captured")
    assert table.address == known["table_address"]
    unaccepted = set(known["unaccepted_units"])
    ranges = list(drgn_unaccepted.for_each_unaccepted_range(prog))
    assert {n for start, end in ranges for n in range(start // UNIT, end // UNIT)} == unaccepted
    first = min(unaccepted)
    assert drgn_unaccepted.pfn_is_unaccepted_memory(prog, first * UNIT // 4096)
    assert drgn_unaccepted.pfn_is_unaccepted_memory(prog, first * UNIT // 4096 - 1), "the guard"
    assert not drgn_unaccepted.pfn_is_unaccepted_memory(prog, first * UNIT // 4096 - 2)
    contains, start = drgn_unaccepted.range_contains_unaccepted_memory, first * UNIT
    # The kernel's own loop steps by units from where it starts, and misses what begins within its last step.
    assert contains(prog, start - 0x10000, 0x10001) and contains(prog, start - UNIT, UNIT + 1)
    # Linux 7.0 (948a013a54c4) rounds outwards: 100 bytes of the last page before have its guard, and so have none.
    assert contains(prog, start - 4096, 100) and contains(prog, start - 1, 0) and contains(prog, start + 5, 1)
    assert not contains(prog, start - 8192, 100) and not contains(prog, start - 4097, 1)
    base = known["type15"][0][0]
    assert drgn_unaccepted.phys_to_unit(prog, base + 5 * UNIT) == 5
    assert drgn_unaccepted.phys_to_unit(prog, base - 1) is None
    pages = list(drgn_unaccepted.for_each_unaccepted_page(prog))
    assert len(pages) * 1024 * 4096 == known["nr_unaccepted_bytes"]
    assert list(drgn_unaccepted.for_each_accepting_range(prog)) == []
    efi_map = drgn_unaccepted.efi_memory_map(prog)
    assert [[d.start, d.end] for d in efi_map.descriptors if d.type == 15] == known["type15"]
    assert drgn_unaccepted.e820_table(prog, "firmware")
    assert drgn_unaccepted.take_snapshot(prog).table == drgn_unaccepted.take_snapshot(prog).table
    assert repr(ranges[0]) == f"Range(start={ranges[0].start:#x}, end={ranges[0].end:#x})"
    assert f"address={known['table_address']:#x}" in repr(table)
    assert ("bitmap=<56 bytes>" in repr(table)) is known["has_table"]


@pytest.mark.parametrize("sample", ("6.12-fill", "6.12-fill-kdump"))
def test_one_helper_answers_on_any_target(sample: str) -> None:
    known, prog = truth(sample), open_sample(sample)
    with pytest.raises(LookupError):
        prog.type("struct zone")
    assert drgn_unaccepted.load_types(prog) == "btf"
    assert prog["efi"].unaccepted == known["table_address"] and prog.type("struct zone")
    first = min(known["unaccepted_units"]) * UNIT
    state = drgn_unaccepted.resolve_address(prog, first + 4096)
    assert (state.start, state.state) == (first, "unaccepted") and state.reason
    # The direct map begins at 0xffffa00cc0000000.
    assert drgn_unaccepted.resolve_address(prog, 0xFFFFA00CC0000000 + first) == state
    assert drgn_unaccepted.resolve_address(prog, 1 << 40).state == "no-ram"
    for address, words in ((1 << 52, "beyond the last"), (0xFFF0 << 48, "not mapped by the page tables")):
        with pytest.raises(ValueError, match=words):
            drgn_unaccepted.resolve_address(prog, address)


@pytest.mark.parametrize("pfn", (-1, 1 << 40, 1 << 52, 1 << 64))
def test_what_is_no_physical_memory_is_not_answered(prog: drgn.Program, pfn: int) -> None:
    with pytest.raises(ValueError, match="PFN"):
        drgn_unaccepted.pfn_is_unaccepted_memory(prog, pfn)
    for start, size in ((pfn << 12, 1), (0, pfn << 12 | 1), (0x1000, -1), ((1 << 52) - 1, 2)):
        with pytest.raises(ValueError, match="not a physical"):
            drgn_unaccepted.range_contains_unaccepted_memory(prog, start, size)
    with pytest.raises(ValueError, match="not a physical"):
        drgn_unaccepted.phys_to_unit(prog, pfn << 12)
    assert not drgn_unaccepted.pfn_is_unaccepted_memory(prog, (1 << 40) - 1)
    assert drgn_unaccepted.range_contains_unaccepted_memory(prog, 0, 1 << 52)


def test_a_damaged_accepting_list_is_not_an_empty_one() -> None:
    """Its head reads as zeros, as in a dump that lacks the page. After a sane entry there can be a wild one, too."""
    from drgn_unaccepted.targets.errors import Unavailable

    prog = open_sample("6.12-panic")
    (entry,) = drgn_unaccepted.for_each_accepting_range(prog)
    following = struct.pack("<Q", 0xFFFF888000000008)
    prog.add_memory_segment(
        entry.address, 8, lambda address, count, offset, physical: following[offset:][:count], False
    )
    entries = drgn_unaccepted.for_each_accepting_range(prog)
    assert next(entries) == entry
    with pytest.raises(Unavailable, match="accepting_list: "):
        list(entries)
    head = prog["accepting_list"].address_
    assert head is not None
    prog.add_memory_segment(head, 16, lambda address, count, offset, physical: bytes(count), False)
    with pytest.raises(Unavailable, match="NULL"):
        list(drgn_unaccepted.for_each_accepting_range(prog))
