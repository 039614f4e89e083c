# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run a case in a process of its own with limits, and judge what came out.

A process that dies of a signal is ``died``: drgn and libkdumpfile are C, and a dump can kill them. That is told apart,
because it is not ours to fix; whoever reads many dumps gives each a process of its own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import resource
import signal
import tempfile
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, NoReturn, Optional

from drgn_unaccepted.cli import main
from drgn_unaccepted.errors import INTERNAL_ERROR
from drgn_unaccepted.model.ranges import Range, intersect, merge, subtract, total
from tests.fuzz.case import Case, truth

#: Limits of a run: seconds of CPU and of time, after which it counts as hanging, and bytes of address space. Tests run
#: on slow and loaded machines, so these are minutes; scripts/fuzz sets lower ones.
SECONDS = 240
WALL_SECONDS = 1200
MEMORY = 1 << 30

UNIT = 2 << 20

ANSWERED, REFUSED = "answered", "refused"
#: All other kinds are failures: traceback, hang, memory, output, wrong, and a process that libkdumpfile or drgn ended.
DIED = "died"


def _address_space() -> int:
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class Outcome(NamedTuple):
    kind: str
    text: str  #: One line that tells one defect from another; the reason of a refusal.
    details: str = ""  #: All that is known.
    seconds: float = 0.0  #: Of CPU.
    peak_bytes: int = 0  #: Beyond what the harness had when it forked.

    @property
    def failed(self) -> bool:
        return self.kind not in (ANSWERED, REFUSED)


class Defect(Exception):
    """A run did what it must not: the kind, and what."""


def isolated(check: Callable[[], Outcome]) -> Outcome:
    """``check()`` in a forked process with limits."""
    with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as trace:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        pid = os.fork()
        if pid == 0:
            _child(check, report.fileno(), trace.fileno())
        _, status, usage = os.wait4(pid, 0)
        seconds = usage.ru_utime + usage.ru_stime
        trace.seek(0)
        text = trace.read().decode("utf-8", "replace")
        report.seek(0)
        data = report.read()
    peak = max(0, usage.ru_maxrss * 1024 - resident)
    if os.WIFEXITED(status) and data:
        return Outcome(*json.loads(data))._replace(seconds=seconds, peak_bytes=peak)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL):
        return Outcome("hang", _innermost(text), text, seconds, peak)
    if "MemoryError" in text or "out of memory" in text:
        return Outcome("memory", _innermost(text), text, seconds, peak)
    name = signal.Signals(number).name if number else f"exit status {os.WEXITSTATUS(status)}"
    return Outcome(DIED, f"{name}: {_innermost(text)}", text, seconds, peak)


def _child(check: Callable[[], Outcome], report: int, trace: int) -> NoReturn:
    status = 1
    try:
        # The memory of the harness is not the program's.
        most = MEMORY + _address_space()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 2))
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        faulthandler.enable(trace)
        for number in (signal.SIGXCPU, signal.SIGALRM):
            faulthandler.register(number, trace, chain=True)
        signal.alarm(WALL_SECONDS)
        # What C code says on its way out.
        os.dup2(trace, 2)
        outcome = _judged(check)
        os.write(report, json.dumps(outcome).encode())
        status = 0
    finally:
        os._exit(status)


def _judged(check: Callable[[], Outcome]) -> Outcome:
    try:
        return check()
    except Defect as defect:
        return Outcome(*defect.args)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        details, kind = traceback.format_exc(), "memory" if isinstance(error, MemoryError) else "traceback"
        return Outcome(kind, f"{type(error).__name__}: {_innermost(details)}", details)


def _innermost(text: str) -> str:
    """The place in our code where a traceback ends, or faulthandler's begins."""
    lines = [line.strip() for line in text.splitlines() if "/drgn_unaccepted/" in line]
    if not lines:
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no trace")
    line = lines[0] if "most recent call first" in text else lines[-1]
    return line[line.index("/drgn_unaccepted/") + 1 :].replace('"', "")


# One command


def command(*argv: object, fails: Sequence[int] = (0, 3), notes: int = 0) -> tuple[int, str, list[str]]:
    """Run the program; status, stdout, and the lines of stderr that are no warnings.

    :param notes: lines that it may have for stderr although it answered
    :raises Defect: it broke what holds for every run
    """
    arguments = [str(argument) for argument in argv]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(["--debug", *arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
    _no_internal_error(err.getvalue())
    said = [line for line in err.getvalue().split("\n") if line and not line.startswith("drgn-unaccepted: warning: ")]
    what = " ".join(arguments[2:])
    if status not in fails:
        raise Defect("output", f"{what}: exit status {status}")
    wrong = {c for c in out.getvalue() + err.getvalue() if not c.isprintable() and c != "\n"}
    if wrong:
        raise Defect("output", f"{what}: prints {sorted(wrong)[:8]!r}", (out.getvalue() + err.getvalue())[:8192])
    if status == 3 and len(said) != 1 and not (arguments[2] == "check" and out.getvalue()):
        raise Defect("output", f"{what}: exit status 3 with {len(said)} lines on stderr", err.getvalue())
    if status != 3 and len(said) > notes:
        raise Defect("output", f"{what}: exit status {status} with words on stderr", err.getvalue())
    if any(len(line) > 8192 for line in said):
        raise Defect("output", f"{what}: {max(map(len, said))} characters on stderr", err.getvalue()[:8192])
    return status, out.getvalue(), said


def _no_internal_error(said: str) -> None:
    """The program catches what nobody foresaw: one line and status 3, and with --debug the traceback above it."""
    trace, found, line = said.rpartition(f"drgn-unaccepted: {INTERNAL_ERROR}: ")
    if found:
        kind = "memory" if line.startswith("MemoryError") else "traceback"
        raise Defect(kind, f"{line.partition(' (--debug')[0]}: {_innermost(trace)}", said)


def answered(*argv: object, notes: int = 0) -> Outcome:
    """Whether a command answers or refuses; a check's status is an answer."""
    status, _, said = command(*argv, fails=CHECK_STATUS, notes=notes)
    return Outcome(REFUSED if status == 3 else ANSWERED, "".join(said))


def outcome_of(check: Callable[[], Outcome], *wanted: str) -> Outcome:
    """Run it isolated, and assert that it ended in an answer or a refusal."""
    outcome = isolated(check)
    assert outcome.kind in (wanted or (ANSWERED, REFUSED)), outcome
    return outcome


def document(*argv: object, fails: Sequence[int] = (0, 3)) -> Any:
    """The answer as JSON; None where there is none."""
    _, out, _ = command(*argv, "--format", "json", fails=fails)
    # NaN and the like are ValueErrors, which are tracebacks.
    return json.loads(out, parse_constant=int) if out else None


# All commands

CHECK_STATUS = (0, 1, 2, 3)


def ask_everything(snapshot: Path) -> Any:
    """All questions of a snapshot file, in all formats; returns the answer of ``ranges``."""
    before = ("--snapshot", snapshot)
    for name in ("summary", "header", "ranges", "zones", "efi", "e820", "accepting", "map"):
        command(*before, name)
        document(*before, name)
    command(*before, "resolve", "0", "0x100000000", "0-8G", "0xfffffffffffff")
    document(*before, "resolve", "0", "1T", "4G-5G")
    for format_ in ("text", "json", "nagios", "junit"):
        command(*before, "check", "--format", format_, fails=CHECK_STATUS)
    for source in ("bitmap", "page-lists", "counters"):
        command(*before, "summary", "--source", source)
        command(*before, "ranges", "--source", source)
    command(*before, "report", "-o", snapshot.with_suffix(".html"))
    # What was written is read again.
    command(*before, "snapshot", "-o", snapshot.with_suffix(".again"), fails=(0,))
    return document(*before, "ranges")


def check_dump(case: Case, directory: Path, direct: Iterable[str] = ()) -> Outcome:
    """Open the damaged dump, ask all questions, and hold the answer against the guest's account.

    :param direct: a command that is asked of the dump itself, besides
    """
    path = case.write(directory / "dump")
    snapshot = directory / "snapshot.json"
    if direct:
        command("-c", path, *direct, fails=CHECK_STATUS if "check" in direct else (0, 3))
    status, _, said = command("-c", path, "snapshot", "-o", snapshot)
    if status == 3:
        return Outcome(REFUSED, said[0])
    answer = ask_everything(snapshot)
    hold_document(case, "ranges", answer)
    return Outcome(ANSWERED, answer["source"])


# The truth


def unaccepted(case: Case) -> list[Range]:
    """What the guest says is unaccepted."""
    return merge((unit * UNIT, (unit + 1) * UNIT) for unit in truth(case.sample)["unaccepted_units"])


Pieces = Optional[Iterable[tuple[int, int, str]]]
Bounds = tuple[Optional[int], Optional[int]]


def hold(
    case: Case, what: str, pieces: Pieces, exact: bool, bounds: Bounds, told: Optional[int] = None, reason: str = ""
) -> None:
    """Compare an answer with the truth.

    :param pieces: the ranges, if it has them
    :param told: the bytes that it calls unaccepted
    :raises Defect: it is wrong
    """
    states: dict[str, list[tuple[int, int]]] = {}
    for start, end, state in pieces or ():
        states.setdefault(state, []).append((start, end))
    wanted, edges = unaccepted(case), _edges(case)
    lost = intersect(merge([*states.get("accepted", ()), *states.get("no-ram", ())]), wanted)
    if lost:
        raise Defect("wrong", f"{case.group}: {what}: unaccepted memory is called accepted", f"{lost}; {reason}")
    said = merge(states.get("unaccepted", ()))
    if exact and pieces is not None and (subtract(wanted, said) or subtract(said, merge((*wanted, *edges)))):
        raise Defect("wrong", f"{case.group}: {what}: exact, and not the truth", reason)
    if exact and (told is None or not total(wanted) <= told <= total(wanted) + total(edges)):
        raise Defect("wrong", f"{case.group}: {what}: exact, {told} bytes", reason)
    least, most = bounds
    if not (least or 0) - total(edges) <= total(wanted) <= (1 << 52 if most is None else most):
        raise Defect("wrong", f"{case.group}: {what}: {total(wanted)} is not within {least} and {most}", reason)


def hold_document(case: Case, what: str, answer: Any) -> None:
    """Compare an answer of ``ranges``, ``summary`` or ``map`` as JSON with the truth."""
    ranges = answer.get("ranges")
    pieces = None if ranges is None else [(entry["start"], entry["end"], entry["state"]) for entry in ranges]
    bounds = answer.get("unaccepted_bytes_min"), answer.get("unaccepted_bytes_max")
    told = answer["totals"]["unaccepted_bytes"] if "totals" in answer else answer["unaccepted_bytes"]
    hold(case, what, pieces, answer["exact"], bounds, told, str(answer["source_reason"]))


def _edges(case: Case) -> list[Range]:
    """Where a planted bit cannot be told from a real one: beside unaccepted memory, in a chunk that stays listed.

    It says unaccepted, so that nothing dangerous follows.
    """
    start = truth(case.sample)["table_address"]
    if not any(at < start + 4096 and start < at + len(data) // 2 for at, data in case.memory):
        return []
    wanted = unaccepted(case)
    return subtract(merge((start - UNIT, end + UNIT) for start, end in wanted), wanted)
