# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines that several commands print: pairs, tables, the source of an answer, the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from drgn_unaccepted.answer.documents import Document, TableDocument
from drgn_unaccepted.answer.head import source_name
from drgn_unaccepted.words import safe, size

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
    """The source, and why no better one was used."""
    name, reason = source_name(answer), answer["source_reason"]
    return name if reason is None else f"{name}; {safe(reason)}"


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
    yield f"source: {source(answer)}"
    if answer["source"] == "none":
        yield f"table: {table_state(answer['table'])}"
    if answer["source"] == "page-lists":
        yield f"note: {LISTED_CAVEAT}"
    yield ""


def no_state(answer: Document) -> Optional[str]:
    """Why the state of no memory is known although a table should be there; None where it is."""
    if answer["source"] == "none" and answer["table"]["state"] != "absent":
        return str(answer["source_reason"])
    return None


def no_addresses(answer: Document) -> Optional[str]:
    """Why the state of no address is known; None where it is."""
    if answer["source"] == "counters":
        why = "" if answer["source_reason"] is None else f" ({answer['source_reason']})"
        return f"source counters knows no addresses{why}"
    return no_state(answer)
