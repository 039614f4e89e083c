# SPDX-License-Identifier: LGPL-2.1-or-later
"""``efi``: the EFI memory map, as the firmware reported it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import starmap
from typing import Optional

from drgn_unaccepted.answer.documents import DescriptorDocument, EfiAnswer
from drgn_unaccepted.answer.parts import efi
from drgn_unaccepted.commands import Arguments, Parser, Question
from drgn_unaccepted.model import efi as efi_model
from drgn_unaccepted.model.efi import UNACCEPTED
from drgn_unaccepted.views import lines
from drgn_unaccepted.views.tabular import columns
from drgn_unaccepted.words import count, safe, size, wrap


class Efi(Question[EfiAnswer]):
    has_long_list = True

    def add_arguments(self, parser: Parser) -> None:
        help_ = "the descriptors of type N (default: 15, unaccepted)"
        parser.add_argument("--type", type=int, metavar="N", default=UNACCEPTED, help=help_)
        parser.add_argument("--dmesg", action="store_true", help="all descriptors in the words of efi=debug")

    def lack(self, answer: EfiAnswer) -> Optional[str]:
        return None if answer["descriptors"] is not None else f"EFI memory map: {answer['note']}"

    def text(self, answer: EfiAnswer, args: Arguments) -> Iterator[str]:
        descriptors = answer["descriptors"] or []
        if args.dmesg:
            yield from starmap(_dmesg, enumerate(descriptors))
            return
        kind = "complete" if answer["complete"] else "incomplete"
        note = "" if answer["note"] is None else f"; {safe(answer['note'])}"
        number = count(len(descriptors), "descriptor")
        yield from wrap(f"EFI memory map from the {answer['provenance'].replace('-', ' ')}, {kind}; {number}{note}")
        shown = [d for d in descriptors if args.all or d["type"] == args.type]
        one = f"type {args.type}, {efi_model.type_name(args.type)}; others: --all, --type N"
        which = "all types" if args.all else one
        yield f"{size(sum(d['end'] - d['start'] for d in shown))} in {count(len(shown), 'descriptor')} of {which}"
        masks = (d["attribute"] for d in shown)
        names = ("unknown" if mask is None else "|".join(efi_model.attribute_names(mask)) for mask in masks)
        rows = [(*lines.extent(d), d["type"], d["name"], attributes) for d, attributes in zip(shown, names)]
        if rows:
            yield ""
            yield from columns(rows, ("start", "end", "size", "type", "name", "attributes"), args.all)


def _dmesg(number: int, d: DescriptorDocument) -> str:
    """As efi_print_memmap() prints a descriptor, with the attributes of efi_md_typeattr_format()."""
    attribute, known = d["attribute"] or 0, sum(efi_model.ATTRIBUTES.values())
    columns = [f"{name if attribute & bit else '':{len(name)}}" for name, bit in efi_model.ATTRIBUTES.items()]
    attributes = "unknown" if d["attribute"] is None else "|".join(columns)
    if attribute & ~known:
        attributes = f"attr={attribute:#018x}"
    last, mib = d["end"] - 1, (d["end"] - d["start"]) >> 20
    return f"efi: mem{number:02}: [{d['name']:12}|{attributes}] range=[{d['start']:#018x}-{last:#018x}] ({mib}MB)"


COMMAND = Efi(efi)
