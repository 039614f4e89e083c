# SPDX-License-Identifier: LGPL-2.1-or-later
"""One sample of ``watch``, as the lines of a screen or as one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tabulate import tabulate

from drgn_unaccepted.answer.documents import ProgressAnswer, ZoneProgress
from drgn_unaccepted.answer.head import reasons, source_name
from drgn_unaccepted.answer.parts import where, who
from drgn_unaccepted.words import count, safe, size, wrap

_AMOUNTS = ("managed_bytes", "free_bytes", "unaccepted_bytes", "listed_chunks", "rate_bytes_per_second")
_ACCEPTS_SHOWN = 16  #: Accepts that the screen shows. Each one occupies a CPU.


def screen(answer: ProgressAnswer, width: int, height: int, ascii_only: bool = False) -> list[str]:
    """The lines of one sample, cut to the window."""
    lines = [
        f"unaccepted memory of {safe(answer['target']['release'] or 'a kernel of unknown release')}  "
        f"{answer['target']['taken_at']}",
        f"sample {answer['sample']}, {_duration(answer['elapsed_seconds'])} since the first, "
        f"took {answer['cost_seconds']:.3f} s; q quits",
        "",
        *wrap(_unaccepted(answer), "unaccepted   ", max(40, width)),
        *_accepted(answer, width, ascii_only),
        f"rate         {_rate(answer)}",
        f"time to go   {_time_to_go(answer)}",
        "",
        *_zones(answer),
        "",
        *_accepting(answer),
        *(line for note in answer["torn"] for line in wrap(safe(note), "torn: ", max(40, width))),
    ]
    if len(lines) > height:
        lines[height - 1 :] = [f"({len(lines) - height + 1} more lines; the window is too low)"]
    return [text[: max(0, width)] for text in lines]


def line(answer: ProgressAnswer) -> str:
    """One sample on one line, for a log or a pipe."""
    in_flight = "?" if answer["accepting"] is None else len(answer["accepting"])
    speed = answer["rate_bytes_per_second"]
    rate = "rate unknown" if speed is None else f"{size(speed)}/s"
    text = f"{answer['target']['taken_at'][11:19]}  {answer['elapsed_seconds']:7.1f} s"
    text += f"  {size(answer['unaccepted_bytes']):>10} {answer['source']:13}  {rate:>13}  {in_flight:>2} in flight"
    return text + "  torn" * bool(answer["torn"])


def _unaccepted(answer: ProgressAnswer) -> str:
    if answer["source"] == "none":
        return f"unknown: {safe('; '.join(reasons(answer)))}"
    whole_chunks = answer["source"] in ("page-lists", "counters")
    caveat = ": a listed chunk can hold a unit that is accepted already" if whole_chunks else ""
    return f"{size(answer['unaccepted_bytes'])}  ({source_name(answer)}{caveat})"


def _accepted(answer: ProgressAnswer, width: int, ascii_only: bool) -> Iterator[str]:
    """What the page allocator manages and does not list as unaccepted, with a bar."""
    managed, waiting = answer["managed_bytes"], _sum(zone["unaccepted_bytes"] for zone in answer["zones"] or ())
    if managed is None or waiting is None:
        yield f"accepted     unknown: {safe(answer['missing'].get('zones', 'a kernel without NR_UNACCEPTED'))}"
        return
    yield f"accepted     {size(managed - waiting)} of {size(managed)} that the page allocator manages"
    if managed > 0 and width >= 25:
        part = (managed - waiting) / managed
        percent = f"{min(100 * part, 99.9) if part < 1 else 100:5.1f}%"  # 100% is all of it
        cells = width - 16 - len(percent)
        full, eighths = divmod(round(min(max(part, 0), 1) * cells * 8), 8)
        bar = "#" * full if ascii_only else "█" * full + "▏▎▍▌▋▊▉"[eighths - 1 : eighths]
        yield f"{'':13}{percent} |{bar:{cells}}|"


def _rate(answer: ProgressAnswer) -> str:
    if answer["rate_bytes_per_second"] is None:
        return "unknown until the second sample" if answer["rate_seconds"] is None else "unknown: the source changed"
    return f"{size(answer['rate_bytes_per_second'])}/s over {answer['rate_seconds']:.1f} s"


def _time_to_go(answer: ProgressAnswer) -> str:
    if answer["unaccepted_bytes"] == 0:
        return "nothing is left"
    if answer["seconds_left"] is None:
        return "unknown" if answer["rate_bytes_per_second"] is None else "nothing is being accepted"
    return f"{_duration(answer['seconds_left'])} at this rate"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _zones(answer: ProgressAnswer) -> list[str]:
    zones = answer["zones"]
    if zones is None:
        return [f"zones: {safe(answer['missing']['zones'])}"]
    nodes = by_node(zones)
    rows: list[tuple[object, ...]] = [("node", "zone", "managed", "free", "unaccepted", "chunks", "rate")]
    for zone in [*zones, *nodes] if len(nodes) > 1 else zones:
        amounts = (size(zone["managed_bytes"]), size(zone["free_bytes"]), size(zone["unaccepted_bytes"]))
        chunks = "unknown" if zone["listed_chunks"] is None else zone["listed_chunks"]
        speed = "" if zone["rate_bytes_per_second"] is None else f"{size(zone['rate_bytes_per_second'])}/s"
        rows.append((zone["node"], safe(zone["name"]), *amounts, chunks, speed))
    align = ("left", "left", *("right",) * 5)
    return tabulate(rows, tablefmt="plain", colalign=align, disable_numparse=True).splitlines()


def _accepting(answer: ProgressAnswer) -> Iterator[str]:
    entries = answer["accepting"]
    if entries is None:
        yield f"accepting now: {safe(answer['missing']['accepting'])}"
        return
    yield f"accepting now: {count(len(entries), 'accept')}"
    for entry in entries[:_ACCEPTS_SHOWN]:
        yield f"  {where(entry)}: {who(entry)}"
    if len(entries) > _ACCEPTS_SHOWN:
        yield f"  and {len(entries) - _ACCEPTS_SHOWN} more"
    for problem in answer["accepting_problems"]:
        yield f"accepting_list: {safe(problem)}"


def by_node(zones: Iterable[ZoneProgress]) -> list[ZoneProgress]:
    """The zones added up by node; None where a zone of the node has None."""
    nodes: dict[int, list[Any]] = {}
    for zone in zones:
        nodes.setdefault(zone["node"], []).append(zone)
    sums: list[Any] = [
        {"node": node, "name": "all", **{key: _sum(zone[key] for zone in found) for key in _AMOUNTS}}
        for node, found in nodes.items()
    ]
    return sums


def _sum(numbers: Iterable[Any]) -> Any:
    """None where one of them is None."""
    found = [*numbers]
    return None if None in found else sum(found)
