# SPDX-License-Identifier: LGPL-2.1-or-later
"""``summary``: how much memory is unaccepted, and how that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Optional

from drgn_unaccepted.answer.documents import PlatformDocument, StateRange, SummaryAnswer, TaskDocument, document
from drgn_unaccepted.answer.head import head, joined, known
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.map import memory_of
from drgn_unaccepted.answer.parts import died_in, where, who
from drgn_unaccepted.answer.truth import UNACCEPTED, UNKNOWN
from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.checks.rule import rules
from drgn_unaccepted.commands import Arguments, Question
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.snapshot import PAGE_SIZE, STATE, Snapshot
from drgn_unaccepted.views import lines
from drgn_unaccepted.words import KEPT_SPACE, count, safe, size, span

_FEW = 6  #: Ranges that the screen has room for.
_SLOW = {"pages", "kexec_segments", "reclaiming"}  #: What rules need and a summary does not.

_PLATFORMS = {"tdx": "Intel TDX", "snp": "AMD SEV-SNP", "none": "neither TDX nor SEV-SNP", None: "unknown platform"}


class Summary(Question[SummaryAnswer]):
    parts = STATE | {"platform", "panic"}

    def lack(self, answer: SummaryAnswer) -> Optional[str]:
        # A log tells of the guest and its end, also where it tells nothing of memory.
        return None if answer["target"]["kind"] in ("log", "sos") else lines.no_state(answer)

    def text(self, answer: SummaryAnswer, args: Arguments) -> Iterator[str]:
        return lines.pairs(rows(answer))


def rows(answer: SummaryAnswer) -> list[tuple[str, str]]:
    """What the screen and the page of ``report`` say first: names and values; without a name, more of the same."""
    return [*_memory(answer), *_end(answer), *_guest(answer)]


def _memory(answer: SummaryAnswer) -> Iterator[tuple[str, str]]:
    if answer["died_in_accept"]:
        yield "DIED IN ACCEPT", safe(answer["panic"] or "")
    for accept in answer["died_in_accept"]:
        yield "", f"{who(accept)}, accepting {where(accept).partition(' (')[0]}"
    total, *evidence = lines.verdict(answer)
    yield total
    if answer["ranges"] is None and answer["unaccepted_span"] is not None:
        number = count(answer["unaccepted_runs"] or 0, "range")
        yield "", f"{number} in {span(*answer['unaccepted_span'])}: see ranges, map"
    for entry in answer["ranges"] or ():
        # The reason is in ranges.
        undecided = "  undecided" + (", being accepted" if "in flight" in entry["reason"] else "")
        undecided = undecided if entry["state"] == UNKNOWN else ""
        yield "", f"{span(entry['start'], entry['end']):23}  {size(entry['end'] - entry['start']):>8}{undecided}"
    yield from evidence


def _end(answer: SummaryAnswer) -> Iterator[tuple[str, str]]:
    """When the kernel crashed, its last words where they are not the first row, and what it was doing."""
    words = "" if answer["died_in_accept"] else safe(answer["panic"] or "")
    task, crashed_at = answer["panic_task"], answer["target"]["crashed_at"]
    # The task is beside the point where someone asked for the crash, and an idle task was only interrupted.
    if words and task is not None and task["pid"] and not words.startswith("sysrq"):
        words += f", in {safe(task['comm'])} (pid {task['pid']}), CPU {task['cpu']}"
    if words or crashed_at:
        when = crashed_at and _time(crashed_at)
        yield "crashed" if crashed_at else "panic", ": ".join(filter(None, (when, words)))
    counter = f"NR_UNACCEPTED {size(answer['nr_unaccepted_bytes'])}"
    if answer["nr_unaccepted_bytes"] is None:
        counter = f"unknown: {safe(answer['missing'].get('counters', 'kernel without NR_UNACCEPTED'))}"
    elif answer["listed_chunks"] is not None:
        counter += f", {count(answer['listed_chunks'], 'chunk')} of {size(answer['chunk_bytes'])} listed"
    yield "counters", counter
    if answer["in_flight"] and not answer["died_in_accept"]:
        yield "in flight", f"{count(answer['in_flight'], 'accept')}: see accepting"
    elif answer["in_flight"] is None and "accepting" not in answer["missing"]:
        yield "in flight", "unknown: accepting_list is damaged, see accepting"
    yield from (("torn", safe(note)) for note in answer["torn"])


def _guest(answer: SummaryAnswer) -> Iterator[tuple[str, str]]:
    target, platform, findings = answer["target"], answer["platform"], answer["findings"]
    guest = f"Linux {safe(target['release'] or 'of unknown release')}"
    if answer["ram_bytes"] is not None:
        guest += f", {size(answer['ram_bytes'])} RAM"
    if platform is None:
        yield "guest", f"{guest}, platform unknown: {safe(answer['missing']['platform'])}"
    else:
        policy = {True: "lazy", False: "eager", None: "unknown"}[platform["lazy"]]
        given = target.get("debug_info_path")
        of_btf = f"BTF of {safe(given)}" if given else "its own BTF"
        types = {"dwarf": ", types from DWARF", "btf": f", types from {of_btf}"}.get(target["debug_info"], "")
        yield "guest", f"{guest}, {_PLATFORMS[platform['kind']].replace(' ', KEPT_SPACE)}"
        yield "", f"accept_memory={policy}{types}"
    if target["kind"] in ("log", "sos") and answer["command_line"]:
        yield "command line", safe(answer["command_line"])
    # When a dump was read tells nothing.
    when = "" if target["kind"] == "vmcore" else f", {_time(target['taken_at'])}"
    yield "target", f"{safe(target['path'] or 'the running kernel')}{when}"
    if findings is not None:
        bad = ", ".join(f"{findings[status]} {status}" for status in ("critical", "warning") if status in findings)
        passed = count(findings.get("pass", 0), "quick rule")
        yield "check", f"{f'{bad}, ' if bad else ''}{passed} passed: see check"


def _time(iso: str) -> str:
    return f"{safe(iso[:19])} UTC".replace("T", " ", 1).replace(" ", KEPT_SPACE)


def summary(snapshot: Snapshot, judgement: Judgement, with_checks: bool = True) -> SummaryAnswer:
    """The totals, the policy and the accepts in flight; parts that could not be read are null and named."""
    table, accepting, geometry = snapshot.table, snapshot.accepting, snapshot.table.geometry
    runs = span = None
    if judgement.by_bits:
        assert table.bitmap is not None and geometry is not None
        extent = bits.extent(table.bitmap)
        runs = 0 if extent is None else extent.runs
        span = extent and [geometry.unit(extent.first).start, geometry.unit(extent.end - 1).end]
    whole = [zone.listed for zone in snapshot.zones or () if zone.listed is not None and not zone.listed.problems]
    is_whole = bool(whole) and len(whole) == len(snapshot.zones or ())
    waiting = (p for p in known(judgement) if p.state in (UNACCEPTED, UNKNOWN))
    few = list(islice(joined(p if p.state == UNKNOWN else p._replace(reason="") for p in waiting), _FEW + 1))
    is_few = len(few) <= _FEW and judgement.name not in ("counters", "none")
    findings = None
    if with_checks and snapshot.target.kind != "live":
        # The others take longer than all else, and a live kernel two samples.
        quick = [rule.name for rule in rules() if not _SLOW & set(rule.needs)]
        findings = dict(Counter(str(finding.status) for finding in run_checks(snapshot, quick, judgement).findings))
    return {
        **head(snapshot, judgement, "summary"),
        "died_in_accept": died_in(snapshot),
        "ram_bytes": rng.total(memory_of(snapshot)[0]) or None,
        "ranges": [document(StateRange, piece) for piece in few] if is_few else None,
        "findings": findings,
        "covered": None if geometry is None else [geometry.phys_base, geometry.end],
        "unaccepted_runs": runs,
        "unaccepted_span": span,
        "listed_chunks": sum(len(each.pfns) for each in whole) if is_whole else None,
        "chunk_bytes": None if snapshot.kernel is None else snapshot.kernel.chunk_pages * PAGE_SIZE,
        "platform": None if snapshot.platform is None else document(PlatformDocument, snapshot.platform),
        "in_flight": None if accepting is None else len(accepting.entries) or (None if accepting.problems else 0),
        "panic": snapshot.panic,
        "panic_task": None if snapshot.panic_task is None else document(TaskDocument, snapshot.panic_task),
        "command_line": snapshot.image.command_line,
        "missing": dict(snapshot.missing),
    }


COMMAND = Summary(summary)
