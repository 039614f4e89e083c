# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines that several commands print: pairs, the source of an answer, reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Optional

from drgn_unaccepted.answer.documents import Document, Extent
from drgn_unaccepted.answer.head import reasons
from drgn_unaccepted.words import safe, size, wrap

#: Of the sources that count chunks.
CAVEATS = {
    "page-lists": "a chunk can hold a unit accepted as a guard; what is being accepted is on no list",
    "counters": "NR_UNACCEPTED counts chunks, which can hold a unit accepted as a guard",
}

_EVIDENCE = {
    "bitmap": "the bitmap of the table",
    "reconstructed": "bits at boot, page lists, struct pages: reconstructed",
}

NO_EFI_MAP = "no EFI memory map (see efi)"


def extent(of: Extent) -> tuple[str, str, str]:
    return f"{of['start']:#x}", f"{of['end']:#x}", size(of["end"] - of["start"])


def pairs(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        yield from wrap(value, f"{name:{width}}  ")


def verdict(answer: Document) -> list[tuple[str, str]]:
    """Rows for :func:`pairs`: the total, what it rests on, whether that is exact, and why nothing better was used."""
    evidence = _EVIDENCE.get(answer["source"], answer["source"].replace("-", " "))
    exact = "" if answer["source"] == "none" else ", exact" if answer["exact"] else ", not exact"
    more = [*map(safe, reasons(answer)), *(text for name, text in CAVEATS.items() if name == answer["source"])]
    return [("unaccepted", amount(answer)), ("evidence", evidence + exact), *(("", reason) for reason in more)]


def amount(answer: Document) -> str:
    """How much memory is unaccepted, of what was at boot or of what the bitmap covers."""
    total, most = answer["unaccepted_bytes"], answer["unaccepted_bytes_max"]
    if answer["source"] == "none":
        return "nothing for the kernel to accept" if answer["table"]["state"] == "absent" else "unknown"
    if total is None and answer["source"] != "reconstructed":
        return f"unknown: {answer['source']} may lack some"
    least, text = answer["unaccepted_bytes_min"], size(total)
    at_boot, covered = answer["initially_unaccepted_bytes"], answer["covered_bytes"]
    of = "" if covered is None else f" of {size(covered)} that the table covers"
    of = of if at_boot is None else f" of {size(at_boot)} that were unaccepted at boot"
    if not answer["exact"]:
        between = f"at least {size(least)}" if most is None else f"{size(least)} to {size(most)}"
        if answer["source"] == "reconstructed":
            text = between
        elif least is not None:
            text = f"{text} listed, {between} possible{',' if of else ''}"
        else:
            text += " (not exact)"
    is_perhaps = answer["table"]["same_boot"] is False and answer["source"] == "bitmap"
    return f"{text}{of}{', if the saved table is of this boot' if is_perhaps else ''}"


def preface(answer: Document) -> Iterator[str]:
    """The total of an answer and its source, before its table: they decide what the lines are worth."""
    yield from pairs(verdict(answer))
    yield ""


def in_full(answer: Document) -> Iterator[str]:
    """Of ``--verbose``: the reasons that :func:`preface` has in short."""
    yield ""
    yield from wrap(safe(answer["source_reason"] or answer["table"]["reason"] or "the table was read"), "in full: ")


def brief(text: str) -> str:
    """A reason, with that of the EFI memory map in short: ``efi`` has it in full."""
    return re.sub("boot-map: [^;]*(; kernel-log: [^;]*)?(; runtime-map: [^;]*)?", NO_EFI_MAP, text)


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
