# SPDX-License-Identifier: LGPL-2.1-or-later
"""``report`` as one page that can be read without its script: HTML with its style, drawings and data inside.

All text from the target is escaped. The page's own policy allows its own script and style alone, and no connection.
The script looks addresses up in the packed data, and computes no state.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any, Optional, cast

from drgn_unaccepted import __version__, limits
from drgn_unaccepted.answer import documents
from drgn_unaccepted.answer.head import source_name
from drgn_unaccepted.model.ranges import Range, merge
from drgn_unaccepted.views.map import segments
from drgn_unaccepted.views.svg import fill, history_svg, lane_class, map_svg
from drgn_unaccepted.words import KEPT_SPACE, count, safe, size

_SCRIPTS = ("data.js", "closeup.js", "page.js")
_WORST_FIRST = ("critical", "warning", "info")

#: The colours of states, in the order in which they are drawn: what must not be missed comes last.
_STATES = {"no-ram": "hole", "accepted": "accepted", "unknown": "unknown", "unaccepted": "unaccepted"}

#: Columns whose names are not their keys.
_TITLES = {
    **{"comm": "command", "name": "type", "unaccepted_bytes": "NR_UNACCEPTED", "listed_chunks": "chunks"},
    **{"managed_bytes": "managed", "free_bytes": "free", "start_unit": "first unit", "end_unit": "end unit"},
}
_EXTENT = ("start", "end", "size")

#: An address of kernel memory, with 4 or 5 levels of page tables. It tells where KASLR put the kernel; a page travels.
_KERNEL_ADDRESS = re.compile(r"(?<![0-9a-f])(0x)?ff[0-9a-f]{14}(?![0-9a-f])", re.IGNORECASE)

Said = tuple[documents.State, Optional[bool], str]  #: State, covered, reason.
Ranges = Iterable[Sequence[int]]
Rows = Sequence[Mapping[str, Any]]


class PageDocument(documents.Document):
    facts: list[tuple[str, str]]  #: What ``summary`` says, as names and values; without a name, more of the same.
    missing: dict[str, str]
    checks: documents.CheckAnswer
    #: The sentence that must hold, the reason, and the next step of each rule that found something.
    rules: dict[str, list[str]]
    map: documents.MapAnswer
    ranges: list[Range]  #: The largest unaccepted ranges, by address; ``range_count`` is the number of all.
    range_count: int
    efi: documents.EfiAnswer
    e820: documents.E820Answer
    zones: documents.ZonesAnswer
    accepting: documents.AcceptingAnswer
    past: Optional[documents.HistoryAnswer]
    #: Starts and ends in turns of what is said of all addresses; None: there are too many.
    states: Optional[dict[Said, array[int]]]
    listed: list[Range]
    guards: list[Range]


def report_page(answer: PageDocument) -> str:
    """The page for the answer of ``report``; its size is bounded, whatever the target says."""
    style, script = _part("style.css"), '"use strict";\n' + "\n".join(map(_part, _SCRIPTS))
    tables = "\n".join(
        f'<section id="{name}" class="card" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>'
        + (f'<p class="muted">{_html(note)}</p>' if note else "")
        + f"{content}</section>"
        for name, title, note, content in _sections(answer)
    )
    for choice in sorted({*re.findall(r'value="(t\d+)"', tables)}):
        style += f'section:has([value="{choice}"]:checked) tbody tr:not(.{choice}) {{ display: none; }}\n'
    faults = [one for one in answer["checks"]["findings"] if one["status"] in ("critical", "warning")]
    data = lookup(answer)
    missing = _by_reason((reason, part) for part, reason in answer["missing"].items())
    notes = [_html(f"Without {', '.join(parts)}: {reason}") for reason, parts in missing.items()]
    if not data:
        notes.append("No address can be looked up on this page: there is too much to look up. The command resolve can.")
    facts: dict[str, list[str]] = {}
    for name, value in answer["facts"]:
        facts.setdefault(name or [*facts][-1], []).append(_html(value.replace(KEPT_SPACE, " ")))
    verdict, died = facts["unaccepted"].pop(0), {name: facts.pop(name) for name in [*facts] if name.isupper()}
    shown = sorted(facts, key=lambda name: name not in ("crashed", "panic"))
    parts = {
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}",
        "style": style,
        "script": script,
        "data": data,
        "title": _html(f"Unaccepted memory: {answer['target']['release'] or 'kernel of unknown release'}"),
        "died": "".join(
            f'<p class="died"><strong>{name.capitalize()}</strong><br>{"<br>".join(values)}</p>'
            for name, values in died.items()
        ),
        "verdict": f"Unaccepted memory: {verdict}",
        "checked": _checked(answer["checks"]),
        "facts": "".join(f"<dt>{name}</dt><dd>{'<br>'.join(facts[name])}</dd>" for name in shown if facts[name]),
        "notes": _list(notes, "notes"),
        "findings": _findings(answer),
        "map": map_svg(answer["map"], sorted(chain.from_iterable(one["ranges"] for one in faults))),
        "tables": tables,
        "made": _html(f"Made by drgn-unaccepted {__version__}. Addresses are physical, ends are exclusive."),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("page.html"))


def _checked(checks: documents.CheckAnswer) -> str:
    numbers = Counter(str(one["status"]) for one in checks["findings"])
    found = [count(numbers[name], name) if name == "warning" else f"{numbers[name]} {name}" for name in _WORST_FIRST]
    words = ", ".join(one for one in found if not one.startswith("0 ")) or "no rule found anything"
    status = f'Check: <span class="pill {checks["status"]}">{checks["status"]}</span>'
    return f"{status} {words}; {count(numbers['pass'], 'rule')} passed, {numbers['skip']} could not run."


def _by_reason(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for reason, name in pairs:
        found.setdefault(reason, []).append(name)
    return found


def _findings(answer: PageDocument) -> str:
    findings = answer["checks"]["findings"]
    faults = (one for status in _WORST_FIRST for one in findings if one["status"] == status)
    shown = _list((_finding(one, answer["rules"].get(one["rule"], [])) for one in faults), "list")
    passed = [one["rule"] for one in findings if one["status"] == "pass"]
    skipped = [(one["message"], one["rule"]) for one in findings if one["status"] == "skip"]
    causes = (f"{_html(cause)}: {', '.join(names)}" for cause, names in _by_reason(skipped).items())
    text = shown or "<p>No rule found anything.</p>"
    if passed:
        text += _details(f"{count(len(passed), 'rule')} passed", f"<p>{', '.join(passed)}</p>")
    return text + _details(f"{count(len(skipped), 'rule')} could not run", _list(causes, "")) if skipped else text


def _details(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>{text}</details>"


def _finding(one: documents.FindingDocument, texts: Sequence[str]) -> str:
    text = f'<span class="pill {one["status"]}">{one["status"]}</span> <code>{one["rule"]}</code>'
    text += f"<p>{_html(one['message'])}</p>"
    if texts:
        says, why, fix = (re.sub("`(.+?)`", r"<code>\1</code>", _html(one)) for one in texts)
        text += f"<p><strong>Next:</strong> {fix}</p>" + _details("Why", f"<p>{says}</p><p>{why}</p>")
    ranges = [{"start": start, "end": end} for start, end in one["ranges"]]
    table = _table(one["rule"], _EXTENT, ranges, most=limits.REPORT_CHOICES)
    return text + _details(count(len(ranges), "range"), table) if ranges else text


def _sections(answer: PageDocument) -> Iterator[tuple[str, str, str, str]]:
    """Each part of the page with its name, title and note."""
    past, flight, zones, efi, e820 = answer["past"], answer["accepting"], answer["zones"], answer["efi"], answer["e820"]
    if past is not None:
        words = f"{count(past['samples'], 'sample')} in {past['elapsed_seconds']:.1f} seconds"
        words += "; a sweep is to be expected"
        yield ("recording", "Over time", words, _region("Recording", history_svg(past)))
    number, shown = answer["range_count"], [{"start": start, "end": end} for start, end in answer["ranges"]]
    largest = f"; these are the largest {len(shown)}" if len(shown) < number else ""
    table = _table("Ranges", _EXTENT, shown)
    yield ("ranges", "Unaccepted ranges", f"{count(number, 'range')}, {source_name(answer)}{largest}", table)

    accepts = [{**one, **(one["task"] or dict.fromkeys(("pid", "comm", "cpu")))} for one in flight["accepting"] or ()]
    note = f"not captured: {flight['missing']}" if flight["accepting"] is None else "; ".join(flight["problems"])
    table = _table("Accepts", ("start", "end", "start_unit", "end_unit", "pid", "comm", "cpu"), accepts)
    yield ("accepting", "Accepts in flight", note or f"{len(accepts)} in flight", table)

    amounts = ("managed_bytes", "free_bytes", "unaccepted_bytes", "listed_chunks", "min", "low", "high")
    marked = [{**zone, "zone": zone["name"], **zone["watermarks"]} for zone in zones["zones"] or ()]
    note = f"not captured: {zones['missing']}" if zones["zones"] is None else ""
    yield ("zones", "Zones", note, _table("Zones", ("node", "zone", "start", "end", *amounts), marked))

    descriptors = efi["descriptors"]
    note = f"not captured: {efi['note']}"
    if descriptors is not None:
        note = f"{count(len(descriptors), 'descriptor')} from the {efi['provenance']}"
        note += ("" if efi["complete"] else ", incomplete") + (f": {efi['note']}" if efi["note"] else "")
    table = _table("EFI", (*_EXTENT, "name", "attribute"), descriptors or (), "name", "Unaccepted")
    yield ("efi", "EFI memory map", note, table)

    titles = {"current": "e820_table", "kexec": "e820_table_kexec", "firmware": "e820_table_firmware"}
    entries: list[dict[str, Any]] = []
    for name, of_name in e820["tables"].items():
        found = cast("list[documents.TypedRange]", of_name or [])
        entries += [{**one, "table": titles.get(name, name)} for one in found]
    notes = [f"{titles.get(name, name)} not captured: {reason}" for name, reason in e820["missing"].items()]
    if e820["differences"] is not None:
        differ = f"differ in {count(len(e820['differences']), 'range')}" if e820["differences"] else "are the same"
        notes.append(f"e820_table and e820_table_firmware {differ}")
    table = _table("e820", (*_EXTENT, "name", "table"), entries, "table", "e820_table")
    yield ("e820", "e820 tables", "; ".join(notes), table)


def _region(label: str, content: str, more: str = "") -> str:
    return f'<div class="scroll{more}" tabindex="0" role="region" aria-label="{label}">{content}</div>'


def _table(
    title: str, keys: Sequence[str], rows: Rows, by: str = "", first: str = "", most: int = limits.REPORT_ROWS
) -> str:
    """Rows of documents. A value of the column ``by`` filters them, by style alone, ``first`` at first."""
    if not rows:
        return ""
    text, choices = "", {}
    if by:
        # A hostile map can have any number of types: some of them are choices.
        numbers = dict(Counter(row[by] for row in rows).most_common(limits.REPORT_CHOICES))
        names = sorted(numbers, key=lambda one: (one != first, one))
        choices = {name: f"t{place}" for place, name in enumerate(names)}
        labels = [*((choices[name], f"{name} ({numbers[name]})") for name in names), ("all", f"all ({len(rows)})")]
        for value, label in labels:
            checked = " checked" * (value == choices.get(first, "all"))
            text += f'<label><input type="radio" name="{title}" value="{value}"{checked}> {_html(label)}</label>'
        text = f"<fieldset><legend>{title}: rows to show</legend>{text}</fieldset>"
    kept = sorted(range(len(rows)), key=lambda at: by and rows[at][by] != first)[:most]
    if len(kept) < len(rows):
        text += f'<p class="muted">{len(kept)} of {len(rows)} rows are here.</p>'
    lines = ["".join(f'<th scope="col" class="{_class(key)}">{_TITLES.get(key, key)}</th>' for key in keys)]
    lines[0] = f"<thead><tr>{lines[0]}</tr></thead><tbody>"
    for row in (rows[at] for at in sorted(kept)):
        # Addresses of maps are physical, however large.
        cells = (f'<td class="{_class(key)}">{escape(safe(_cell(row, key)))}</td>' for key in keys)
        lines.append(f'<tr class="{choices.get(row[by], "") if by else ""}">{"".join(cells)}</tr>')
    return text + _region(f"{title}: table", f"<table>{''.join(lines)}</tbody></table>", " tall")


def _class(key: str) -> str:
    """``a`` for an address that can be looked up, ``n`` for other numbers."""
    return "a" if key == "start" else "" if key in ("name", "zone", "comm", "table") else "n"


def _cell(row: Mapping[str, Any], key: str) -> str:
    value = row["end"] - row["start"] if key == "size" else row[key]
    if value is None:
        return "unknown"
    if key in ("start", "end", "attribute"):
        return f"{value:#x}"
    if key in ("size", "min", "low", "high") or key.endswith("_bytes"):
        return size(value)
    return f"{value} ({row['type']})" if key == "name" else str(value)


def _list(items: Iterable[str], class_: str) -> str:
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f'<ul class="{class_}">{lines}</ul>' if lines else ""


def _html(text: str) -> str:
    return escape(safe(_masked(text)))


def _masked(text: str) -> str:
    return _KERNEL_ADDRESS.sub("(kernel address)", text)


def _part(name: str) -> str:
    return (Path(__file__).parent / "html" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def lookup(answer: PageDocument) -> str:
    """JSON in which the script looks addresses up, deflated, in base64; empty: over :data:`limits.REPORT_BYTES`."""
    if answer["states"] is None:
        return ""
    states = []
    order = [*_STATES]
    for (state, covered, reason), edges in sorted(answer["states"].items(), key=lambda one: order.index(one[0][0])):
        class_ = "outside" if state == "accepted" and covered is False else _STATES[state]
        states.append(_entry(_masked(f"{state}: {reason}"), class_, zip(edges[::2], edges[1::2])))
    # What is known of addresses by words, with the colour of each; ``none`` is said of all others.
    tracks: list[dict[str, object]] = [{"name": "state", "none": "", "entries": states}]
    for name, words, class_, ranges in (
        ("page lists", "on zone->unaccepted_pages", "unaccepted", answer["listed"]),
        ("guard", "listed, perhaps accepted", "guard", answer["guards"]),
        ("in flight", "being accepted", "accepting", answer["map"]["lanes"]["accepting"]),
    ):
        tracks.append({"name": name, "none": "", "entries": [_entry(words, class_, ranges)] if ranges else []})
    known = segments(answer["map"])
    for name in ("EFI", "e820", "zone"):
        of_name: dict[tuple[str, str], list[Range]] = {}
        for one in known.get(name, ()):
            key = f"node {one['name']}" if name == "zone" else one["name"], lane_class(name, one)
            extent = (min(edge, limits.PHYSICAL_END) for edge in (one["start"], one["end"]))
            of_name.setdefault(key, []).append(Range(*extent))
        entries = [_entry(*key, merge(ranges)) for key, ranges in of_name.items()]
        tracks.append({"name": name, "none": "in none" if name in known else "not captured", "entries": entries})
    unit, rows = answer["map"]["unit_size"], answer["map"]["rows"]
    data = {
        "unit": unit,
        "base": (answer["table"]["phys_base"] or 0) % unit,
        "top": rows[-1]["start"] + answer["map"]["bytes_per_bin"] * answer["map"]["bins_per_row"] if rows else 0,
        "tracks": tracks,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)).decode("ascii")
    return packed if len(packed) <= limits.REPORT_BYTES else ""


def _entry(words: str, class_: str, ranges: Ranges) -> dict[str, object]:
    return {"words": words, "class": class_, "fill": fill(class_), "ranges": steps(ranges)}


def steps(ranges: Ranges) -> list[int]:
    """Sorted, disjoint ranges as their grain, and in it the way from 0 to each start and end: small numbers."""
    edges = array("Q", chain.from_iterable(ranges))
    grain = reduce(math.gcd, edges, 0) or 1
    return [grain, *((edge - before) // grain for before, edge in zip(chain((0,), edges), edges))]
