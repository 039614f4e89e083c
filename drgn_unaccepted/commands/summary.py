# SPDX-License-Identifier: LGPL-2.1-or-later
"""``summary``: how much memory is unaccepted, and how that is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from drgn_unaccepted.answer.documents import SummaryAnswer
from drgn_unaccepted.answer.head import head, platform_document, source_name
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import STATE, Arguments, Question
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot
from drgn_unaccepted.words import count, safe, size, span


class Summary(Question[SummaryAnswer]):
    parts = STATE | {"platform", "accepting", "panic"}

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> SummaryAnswer:
        return summary(snapshot, judgement)

    def lack(self, answer: SummaryAnswer) -> Optional[str]:
        # A log tells of the guest and its end, also where it tells nothing of memory.
        return None if answer["target"]["kind"] == "log" else lines.no_state(answer)

    def text(self, answer: SummaryAnswer, args: Arguments) -> Iterator[str]:
        rows = [("unaccepted", _unaccepted(answer)), ("source", _source_beside_table(answer))]
        rows.append(("table", lines.table_state(answer["table"])))
        if answer["covered"] is not None:
            rows.append(("covered", f"{span(*answer['covered'])}, {size(answer['covered_bytes'])}"))
        rows.append(("NR_UNACCEPTED", _counter(answer)))
        rows.append(("platform", _platform(answer)))
        if answer["in_flight"]:
            rows.append(("in flight", f"{count(answer['in_flight'], 'accept')}: see accepting"))
        elif answer["in_flight"] is None and "accepting" not in answer["missing"]:
            rows.append(("in flight", "unknown: accepting_list is damaged, see accepting"))
        rows += [("torn", safe(note)) for note in answer["torn"]]
        rows += [("panic", _panic(answer))] if answer["panic"] else []
        if answer["target"]["kind"] == "log" and answer["command_line"]:
            rows.append(("command line", safe(answer["command_line"])))
        rows.append(("kernel", _kernel(answer)))
        return lines.pairs(rows)


def _unaccepted(answer: SummaryAnswer) -> str:
    total, source = answer["unaccepted_bytes"], answer["source"]
    if source == "none":
        if answer["table"]["state"] == "absent":
            return f"nothing for the kernel to accept: {safe(answer['table']['reason'] or '')}"
        return "unknown"
    most = answer["unaccepted_bytes_max"]
    if total is None:
        return f"unknown: {source} may lack some" if most is None else f"at most {size(most)}"
    if source == "page-lists":
        chunks = f"{count(answer['listed_chunks'] or 0, 'chunk')} of {size(answer['chunk_bytes'])}"
        return f"{size(total)} in {chunks}, not exact: {lines.LISTED_CAVEAT}"
    if source == "counters":
        return f"{size(total)}, not exact: {lines.COUNTED_CAVEAT}"
    between = "" if answer["exact"] or most is None else f" to {size(most)}"
    text = f"{size(total)}{between} of {size(answer['covered_bytes'])} covered"
    if answer["table"]["same_boot"] is False and source == "bitmap":
        text += " if the saved table is of this boot"
    if answer["unaccepted_span"] is not None:
        text += f", {count(answer['unaccepted_runs'] or 0, 'range')} in {span(*answer['unaccepted_span'])}"
    return text


def _source_beside_table(answer: SummaryAnswer) -> str:
    """The source, and why no better one was used where the table's own line does not say it."""
    table, reason = answer["table"], answer["source_reason"] or ""
    beyond = reason.removeprefix(f"bitmap: table {table['state']}: {table['reason']}").removeprefix("; ")
    return source_name(answer) + (f"; {safe(beyond)}" if beyond else "")


def _counter(answer: SummaryAnswer) -> str:
    if answer["nr_unaccepted_bytes"] is None:
        return f"unknown: {safe(answer['missing'].get('counters', 'kernel without the counter'))}"
    text = size(answer["nr_unaccepted_bytes"])
    if answer["listed_chunks"] is not None:
        text += f", {count(answer['listed_chunks'], 'chunk')} of {size(answer['chunk_bytes'])} listed"
    return text


def _platform(answer: SummaryAnswer) -> str:
    platform = answer["platform"]
    if platform is None:
        return f"unknown: {safe(answer['missing']['platform'])}"
    kinds = {"tdx": "Intel TDX", "snp": "AMD SEV-SNP", "none": "neither TDX nor SEV-SNP", None: "unknown"}
    policy = {True: "lazy", False: "eager", None: "unknown"}[platform["lazy"]]
    return f"{kinds[platform['kind']]}, accept_memory={policy}"


def _panic(answer: SummaryAnswer) -> str:
    task = answer["panic_task"]
    who = "" if task is None else f", in {safe(task['comm'])} (pid {task['pid']}), CPU {task['cpu']}"
    return safe(answer["panic"] or "") + who


def _kernel(answer: SummaryAnswer) -> str:
    target = answer["target"]
    release = "of unknown release" if target["release"] is None else safe(target["release"])
    where = "running" if target["path"] is None else safe(target["path"])
    types = {"dwarf": "types from DWARF", "btf": "types from its own BTF", "none": "no types"}
    return f"{release}, {where}, {types[target['debug_info']]}"


def summary(snapshot: Snapshot, judgement: Judgement) -> SummaryAnswer:
    """The totals, the policy and the accepts in flight; parts that could not be read are null and named."""
    table, accepting, geometry = snapshot.table, snapshot.accepting, snapshot.table.geometry
    task = snapshot.panic_task
    runs = span = None
    if judgement.by_bits:
        assert table.bitmap is not None and geometry is not None
        extent = bits.extent(table.bitmap)
        runs = 0 if extent is None else extent.runs
        if extent is not None:
            span = [geometry.unit(extent.first).start, geometry.unit(extent.end - 1).end]
    listed = None
    if snapshot.zones and all(zone.listed is not None and not zone.listed.problems for zone in snapshot.zones):
        listed = sum(len(zone.listed.pfns) for zone in snapshot.zones if zone.listed is not None)
    return {
        **head(snapshot, judgement, "summary"),
        "covered": None if geometry is None else [geometry.phys_base, geometry.end],
        "unaccepted_runs": runs,
        "unaccepted_span": span,
        "listed_chunks": listed,
        "chunk_bytes": None if snapshot.kernel is None else snapshot.kernel.chunk_pages * PAGE_SIZE,
        "platform": platform_document(snapshot.platform),
        "in_flight": None if accepting is None else len(accepting.entries) or (None if accepting.problems else 0),
        "panic": snapshot.panic,
        "panic_task": None if task is None else {"pid": task.pid, "comm": task.comm, "cpu": task.cpu},
        "command_line": snapshot.command_line,
        "missing": dict(snapshot.missing),
    }


COMMAND = Summary()
