# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers as text: a function for each command, from its document to the lines that are printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.words import count, safe, size, span

_LISTED_CAVEAT = (
    "a listed chunk can hold a unit that is accepted already, as a guard; what is being accepted now, or was kept "
    "from the page allocator, is on no list"
)
_COUNTED_CAVEAT = (
    "NR_UNACCEPTED counts chunks, of which a unit can be accepted already, as a guard; what is being accepted now, or "
    "was kept from the page allocator, it does not count"
)


def summary(answer: Document) -> Iterator[str]:
    rows = [("unaccepted", _unaccepted(answer)), ("source", _source_beside_table(answer))]
    rows.append(("table", _table(answer["table"])))
    if answer["covered"] is not None:
        rows.append(("covered", f"{span(*answer['covered'])}, {size(answer['covered_bytes'])}"))
    rows.append(("NR_UNACCEPTED", _counter(answer)))
    rows.append(("platform", _platform(answer)))
    if answer["in_flight"]:
        rows.append(("in flight", f"{count(answer['in_flight'], 'accept')}: see accepting"))
    elif answer["in_flight"] is None and "accepting" not in answer["missing"]:
        rows.append(("in flight", "unknown: accepting_list is damaged, see accepting"))
    rows += [("torn", safe(note)) for note in answer["torn"]]
    rows.append(("kernel", _target(answer["target"])))
    return _pairs(rows)


def header(answer: Document) -> Iterator[str]:
    table, fields = answer["table"], answer["header"]
    rows = [("state", table["state"] if table["reason"] is None else f"{table['state']}: {safe(table['reason'])}")]
    if table["address"] is not None:
        where = f"{table['address']:#x}, page offset {fields['page_offset']:#x}"
        how = f", read through {table['read_through']}" if table["read_through"] else ""
        rows.append(("address", where + how))
    if table["version"] is not None:
        rows += [
            ("version", str(table["version"])),
            ("unit_size", f"{table['unit_size']:#x} ({size(table['unit_size'])})"),
            ("phys_base", f"{table['phys_base']:#x}"),
            ("size", f"{table['bitmap_bytes']:#x} ({table['bitmap_bytes']} bytes of bitmap)"),
        ]
    if fields["covered_end"] is not None:
        rows.append(("covers", f"{span(table['phys_base'], fields['covered_end'])}, {count(fields['units'], 'unit')}"))
    if fields["set_bits"] is not None:
        rows.append(("set bits", f"{fields['set_bits']}, {size(fields['set_bits'] * table['unit_size'])} unaccepted"))
    return _pairs(rows)


def ranges(answer: Document) -> Iterator[str]:
    yield from _preface(answer)
    if not answer["ranges"]:
        return
    headers = ["start", "end", "size", "state"]
    rows = [[f"{r['start']:#x}", f"{r['end']:#x}", size(r["end"] - r["start"]), r["state"]] for r in answer["ranges"]]
    if answer["possible_guards"]:
        edges = {start for start, _ in answer["possible_guards"]}
        headers.append("note")
        for row, entry in zip(rows, answer["ranges"]):
            row.append("its first and last unit may be accepted already" if entry["start"] in edges else "")
    yield from _table_lines(rows, headers)


def resolve(answer: Document) -> Iterator[str]:
    yield from _preface(answer)
    for number, entry in enumerate(answer["addresses"] or ()):
        if number:
            yield ""
        where = f"{entry['address']:#x}" if "end" not in entry else span(entry["address"], entry["end"])
        rows = [(where, entry["state"]), ("reason", safe(entry["reason"]))]
        if entry["unit"] is not None:
            unit = entry["unit"]
            # What was read whole and is null all the same, is 0 and not believed.
            unknown = "reads as 0, which is not believed" if answer["table"]["state"] == "present" else "not read"
            bit = unknown if unit["bit"] is None else unit["bit"]
            name = "first unit" if "end" in entry else "unit"
            rows.append((name, f"{unit['index']}, {span(unit['start'], unit['end'])}, bit {bit}"))
        if entry["kernel_predicate"] is not None:
            function = "range_contains_unaccepted_memory()" if "end" in entry else "pfn_is_unaccepted_memory()"
            rows.append((function, str(entry["kernel_predicate"]).lower()))
        missing = {name: f"unknown: {safe(reason)}" for name, reason in answer["missing"].items()}
        for name, nobody in (("efi", "no one descriptor holds it"), ("e820", "no one entry holds it")):
            text = missing.get(name, nobody)
            if entry[name] is not None:
                holder = entry[name]
                text = f"{holder['name']} (type {holder['type']}), {span(holder['start'], holder['end'])}"
            rows.append((name, text))
        zone = missing.get("zone", "no one zone spans it")
        rows.append(("zone", zone if entry["zone"] is None else f"node {entry['node']}, {safe(entry['zone'])}"))
        listed = {True: "on zone->unaccepted_pages", False: "no", None: missing.get("listed", "a part of it")}
        rows.append(("listed", listed[entry["listed"]]))
        if entry["in_flight"]:
            rows.append(("in flight", "being accepted: see accepting"))
        elif entry["in_flight"] is None:
            rows.append(("in flight", missing.get("in_flight", "a part of it: see accepting")))
        yield from _pairs(rows)


def efi(answer: Document) -> Iterator[str]:
    if answer["descriptors"] is None:
        yield f"EFI memory map: {safe(answer['note'])}"
        return
    kind = "complete" if answer["complete"] else "incomplete"
    note = "" if answer["note"] is None else f": {safe(answer['note'])}"
    number = count(len(answer["descriptors"]), "descriptor")
    yield f"EFI memory map from the {answer['provenance']}, {kind}, {number}{note}"
    yield ""
    yield from _table_lines(
        (
            (
                f"{d['start']:#x}",
                f"{d['end']:#x}",
                size(d["end"] - d["start"]),
                d["type"],
                d["name"],
                "unknown" if d["attribute"] is None else f"{d['attribute']:#x}",
            )
            for d in answer["descriptors"]
        ),
        ("start", "end", "size", "type", "name", "attribute"),
    )


def e820(answer: Document) -> Iterator[str]:
    for name, entries in answer["tables"].items():
        title = {"current": "e820_table", "boot_params": "boot_params.e820_table"}.get(name, f"e820_table_{name}")
        if entries is None:
            yield f"{title}: {safe(answer['missing'][name])}"
        else:
            yield f"{title}: {len(entries)} entries"
            yield from _table_lines(
                ((f"{e['start']:#x}", f"{e['end']:#x}", size(e["end"] - e["start"]), e["name"]) for e in entries),
                ("start", "end", "size", "type"),
            )
        yield ""
    if answer["differences"] is None:
        yield "firmware against current: one of the two tables was not captured"
    elif not answer["differences"]:
        yield "firmware against current: no difference"
    else:
        yield "firmware against current:"
        yield from _table_lines(
            (
                (f"{d['start']:#x}", f"{d['end']:#x}", d["firmware"] or "absent", d["current"] or "absent")
                for d in answer["differences"]
            ),
            ("start", "end", "firmware", "current"),
        )


def zones(answer: Document) -> Iterator[str]:
    yield from _preface(answer)
    if answer["zones"] is None:
        yield f"zones: {safe(answer['missing'])}"
        return
    yield from _table_lines(
        (
            (
                z["node"],
                safe(z["name"]),
                size(z["managed_bytes"]),
                size(z["free_bytes"]),
                size(z["unaccepted_bytes"]),
                "unknown" if z["listed_chunks"] is None else z["listed_chunks"],
                size(z["watermarks"]["min"]),
                size(z["watermarks"]["high"]),
                size(z["watermarks"]["promo"]),
                size(z["watermarks"]["boost"]),
            )
            for z in answer["zones"]
        ),
        ("node", "zone", "managed", "free", "NR_UNACCEPTED", "chunks", "min", "high", "promo", "boost"),
    )
    for zone in answer["zones"]:
        where = f"node {zone['node']} {safe(zone['name'])}"
        for run in zone["listed"] or ():
            yield f"{where}: listed {span(*run)}, {size(run[1] - run[0])}"
        for problem in zone["list_problems"]:
            yield f"{where}: unaccepted_pages: {safe(problem)}"


def accepting(answer: Document) -> Iterator[str]:
    if answer["accepting"] is None:
        yield f"accepting_list: {safe(answer['missing'])}"
        return
    for problem in answer["problems"]:
        yield f"accepting_list: {safe(problem)}"
    if not answer["accepting"]:
        yield "accepting_list: empty, no accept is in flight"
        return
    yield f"accepting_list: {count(len(answer['accepting']), 'accept')} in flight" + (
        "" if answer["phys_base_from"] != "EFI memory map" else " (addresses from the EFI memory map's lowest type 15)"
    )
    for entry in answer["accepting"]:
        units = f"units {entry['start_unit']}-{entry['end_unit']}"
        where = "addresses unknown: phys_base is in the table, which was not captured"
        if entry["start"] is not None:
            where = span(entry["start"], entry["end"])
        task = entry["task"]
        who = "no task's stack holds the entry"
        if task is not None:
            cpu = "unknown" if task["cpu"] is None else task["cpu"]
            who = f"pid {task['pid']} ({safe(task['comm'])}) on CPU {cpu}"
        yield f"{where}, {units}: {who}"


_WORST_FIRST = ("critical", "warning", "info", "pass", "skip")


def check(answer: Document) -> Iterator[str]:
    by_status = {status: [f for f in answer["findings"] if f["status"] == status] for status in _WORST_FIRST}
    counts = ", ".join(f"{len(found)} {status}" for status, found in by_status.items() if found)
    yield f"{answer['status']}: {counts}; source: {_source(answer)}"
    yield ""
    width = max((len(finding["rule"]) for finding in answer["findings"]), default=0)
    for status, found in by_status.items():
        for finding in found:
            yield f"{status.upper():8}  {finding['rule']:{width}}  {safe(finding['message'])}"
    if by_status["critical"] or by_status["warning"]:
        yield ""
        yield "what a rule means and what to do: check --explain RULE"


def snapshot(answer: Document) -> Iterator[str]:
    yield f"{answer['file']}: table {answer['table']['state']}"
    for part, reason in sorted(answer["missing"].items()):
        yield f"without {safe(part)}: {safe(reason)}"


def _unaccepted(answer: Document) -> str:
    state, total = answer["table"]["state"], answer["unaccepted_bytes"]
    if answer["source"] == "none":
        if state == "absent":
            return f"nothing for the kernel to accept: {safe(answer['table']['reason'])}"
        return "unknown"
    if total is None:
        return f"unknown: {answer['source']} may lack some"
    if answer["source"] == "bitmap":
        # Not exact is a saved table; one of this boot is a bound.
        of_this_boot = answer["table"]["same_boot"]
        at_most = "" if answer["exact"] or not of_this_boot else "at most "
        text = f"{at_most}{size(total)} of {size(answer['covered_bytes'])} covered"
        if of_this_boot is False:
            text += " if the saved table is of this boot"
        if answer["unaccepted_span"] is not None:
            text += f", {count(answer['unaccepted_runs'], 'range')} in {span(*answer['unaccepted_span'])}"
        return text
    if answer["source"] == "page-lists":
        chunks = f"{count(answer['listed_chunks'], 'chunk')} of {size(answer['chunk_bytes'])}"
        return f"{size(total)} in {chunks}, not exact: {_LISTED_CAVEAT}"
    return f"{size(total)}, not exact: {_COUNTED_CAVEAT}"


def _source(answer: Document) -> str:
    text, reason = _source_name(answer), answer["source_reason"]
    return text if reason is None else f"{text}; {safe(reason)}"


def _source_beside_table(answer: Document) -> str:
    """The source, and why no better one was used where the table's own line does not say it."""
    table, reason = answer["table"], answer["source_reason"] or ""
    beyond = reason.removeprefix(f"bitmap: table {table['state']}: {table['reason']}").removeprefix("; ")
    return _source_name(answer) + (f"; {safe(beyond)}" if beyond else "")


def _source_name(answer: Document) -> str:
    if answer["source"] == "none":
        return "none"
    return f"{answer['source']}, {'exact' if answer['exact'] else 'not exact'}"


def _table(table: Document) -> str:
    text: str = table["state"]
    if table["address"] is not None:
        text += f" at {table['address']:#x}"
    if table["state"] == "present":
        return (
            f"{text}, read through {table['read_through']}: version {table['version']}, unit "
            f"{size(table['unit_size'])}, bitmap of {count(table['bitmap_bytes'], 'byte')}"
        )
    return f"{text}: {safe(table['reason'])}"


def _counter(answer: Document) -> str:
    if answer["nr_unaccepted_bytes"] is None:
        return f"unknown: {safe(answer['missing'].get('counters', 'kernel without the counter'))}"
    text = size(answer["nr_unaccepted_bytes"])
    if answer["listed_chunks"] is not None:
        text += f", {count(answer['listed_chunks'], 'chunk')} of {size(answer['chunk_bytes'])} listed"
    return text


def _platform(answer: Document) -> str:
    platform = answer["platform"]
    if platform is None:
        return f"unknown: {safe(answer['missing']['platform'])}"
    kind = {"tdx": "Intel TDX", "snp": "AMD SEV-SNP", "none": "neither TDX nor SEV-SNP", None: "unknown"}
    policy = {True: "lazy", False: "eager", None: "unknown"}[platform["lazy"]]
    return f"{kind[platform['kind']]}, accept_memory={policy}"


def _target(target: Document) -> str:
    release = "of unknown release" if target["release"] is None else safe(target["release"])
    where = "running" if target["path"] is None else safe(target["path"])
    types = {"dwarf": "types from DWARF", "btf": "types from its own BTF", "none": "no types"}
    return f"{release}, {where}, {types[target['debug_info']]}"


def _preface(answer: Document) -> Iterator[str]:
    """Where the answer comes from: on every view, because a source decides what its lines are worth."""
    yield f"source: {_source(answer)}"
    if answer["source"] == "none":
        yield f"table: {_table(answer['table'])}"
    if answer["source"] == "page-lists":
        yield f"note: {_LISTED_CAVEAT}"
    yield ""


def _pairs(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    return (f"{name:{width}}  {value}" for name, value in rows)


def _table_lines(rows: Iterable[Sequence[Any]], headers: Sequence[str]) -> Iterator[str]:
    from tabulate import tabulate

    right = {"start", "end", "size", "managed", "free", "NR_UNACCEPTED", "min", "high", "promo", "attribute"}
    align: list[Optional[str]] = ["right" if name in right else "left" for name in headers]
    text = tabulate(list(rows), headers=headers, tablefmt="simple", colalign=align, disable_numparse=True)
    return (line.rstrip() for line in text.splitlines())


VIEWS = {
    "summary": summary,
    "header": header,
    "ranges": ranges,
    "resolve": resolve,
    "efi": efi,
    "e820": e820,
    "zones": zones,
    "accepting": accepting,
    "check": check,
    "snapshot": snapshot,
}
