# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines that several commands print: pairs, tables, the source of an answer, the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from drgn_unaccepted.answer.documents import Document, TableDocument
from drgn_unaccepted.answer.head import reasons, source_name
from drgn_unaccepted.words import safe, size, wrap

LISTED_CAVEAT = (
    "a listed chunk can hold a unit that was accepted already as a guard; memory that is being accepted, or was "
    "withheld from the allocator, is on no list"
)
COUNTED_CAVEAT = (
    "NR_UNACCEPTED counts chunks, which can hold a unit that was accepted already as a guard; it does not count memory "
    "that is being accepted or was withheld from the allocator"
)


def pairs(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return (f"{name:{width}}  {value}" for name, value in rows)


def source(answer: Document) -> str:
    """The source, and in short why no better one was used."""
    return "; ".join([source_name(answer), *map(safe, reasons(answer))])


def table_state(document: TableDocument) -> str:
    text = str(document["state"])
    if document["address"] is not None:
        text += f" at {document['address']:#x}"
    if document["state"] == "present":
        return (
            f"{text}, read through {document['read_through']}: version {document['version']}, unit "
            f"{size(document['unit_size'])}, bitmap of {size(document['bitmap_bytes'])}"
        )
    return f"{text}: {safe(document['reason'] or 'no reason')}"


def preface(answer: Document) -> Iterator[str]:
    """The source of an answer before its table: it decides what the lines are worth."""
    yield from wrap(source_name(answer), "source: ")
    for reason in reasons(answer):
        yield from wrap(safe(reason), "        ")
    if answer["source"] == "page-lists":
        yield from wrap(LISTED_CAVEAT, "note: ")
    yield ""


def in_full(answer: Document) -> Iterator[str]:
    """Of ``--verbose``: the reasons that :func:`preface` has in short."""
    yield ""
    yield from wrap(table_state(answer["table"]), "table: ")
    if answer["source_reason"] is not None:
        yield from wrap(safe(answer["source_reason"]), "source: ")


def no_state(answer: Document) -> Optional[str]:
    """Why the state of no memory is known although a table should be there; None where it is."""
    if answer["source"] == "none" and answer["table"]["state"] != "absent":
        return "; ".join(reasons(answer))
    return None


def no_addresses(answer: Document) -> Optional[str]:
    """Why the state of no address is known; None where it is."""
    if answer["source"] == "counters":
        return "; ".join(["source counters knows no addresses", *reasons(answer)])
    return no_state(answer)
