# SPDX-License-Identifier: LGPL-2.1-or-later
"""The questions: what each needs of the target, how it is answered, and when it could not be."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Optional

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.commands.command import Arguments, CommandError, Question
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot

if TYPE_CHECKING:
    from drgn_unaccepted.answer.resolve import Query


def _always(args: Arguments) -> bool:
    return True


_STATE = frozenset(("kernel", "zones", "counters"))


def _summary(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.answer.summary import summary

    return summary(snapshot, source)


def _header(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.answer.summary import header

    return header(snapshot, source)


def _ranges(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.answer.ranges import ranges

    return ranges(snapshot, source)


def _resolve(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    if args.file is not None:
        from drgn_unaccepted.answer.bulk import bulk_document

        return bulk_document(snapshot, source)
    from drgn_unaccepted.answer.resolve import resolve

    return resolve(snapshot, source, args.queries)


def _resolve_file(snapshot: Snapshot, source: Source, args: Arguments) -> Iterator[str]:
    if args.file is None:
        return
    from drgn_unaccepted.answer.bulk import Bulk
    from drgn_unaccepted.files import open_input
    from drgn_unaccepted.views import bulk as view

    bulk = Bulk(snapshot, source)
    try:
        with os.fdopen(0, "rb", closefd=False) if args.file == "-" else open_input(args.file) as text:
            if args.format == "json":
                yield from (view.json_lines(block, bulk) for block in bulk.blocks(text))
            else:
                expected = os.fstat(text.fileno()).st_size
                yield from (view.text(block, bulk) for block in bulk.lines(text, expected))
    except OSError as error:
        raise CommandError(f"{args.file}: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"{args.file}: {error}") from None


def _efi(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.answer.maps import efi

    return efi(snapshot, source)


def _e820(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.answer.maps import e820

    return e820(snapshot, source)


def _zones(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.answer.allocator import zones

    return zones(snapshot, source)


def _accepting(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.answer.allocator import accepting

    return accepting(snapshot, source)


def _check(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.answer.check import check

    try:
        return check(snapshot, source, args.rule, args.earlier)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _explain(args: Arguments) -> Optional[str]:
    from drgn_unaccepted.checks import explain

    try:
        return None if args.explain is None else explain(args.explain)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _map(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.pictures import map_answer

    return map_answer(snapshot, source, args)


def _show_map(answer: Document, args: Arguments) -> Iterable[str]:
    from drgn_unaccepted.pictures import show_map

    return show_map(answer, args)


def _report(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.pictures import report_answer

    return report_answer(snapshot, source, args)


def _show_report(answer: Document, args: Arguments) -> Iterable[str]:
    from drgn_unaccepted.pictures import show_report

    return show_report(answer, args)


def _write_snapshot(snapshot: Snapshot, source: Source, args: Arguments) -> Document:
    from drgn_unaccepted.answer.document import document
    from drgn_unaccepted.snapshot_file import SnapshotFileError, write

    try:
        write(snapshot, args.output)
    except OSError as error:
        raise CommandError(f"{args.output}: {error.strerror}") from None
    except SnapshotFileError as error:
        raise CommandError(f"{args.output}: {error}") from None
    return {**document(snapshot, source, "snapshot"), "file": args.output, "missing": dict(snapshot.missing)}


def _no_state(answer: Document) -> Optional[str]:
    """The state of no address is known, and a table should be there."""
    if answer["source"] == "none" and answer["table"]["state"] != "absent":
        return str(answer["source_reason"])
    return None


def _no_places(answer: Document) -> Optional[str]:
    if answer["source"] == "counters":
        return _knows_no_addresses(answer)
    return _no_state(answer)


def _no_header(answer: Document) -> Optional[str]:
    table = answer["table"]
    if table["version"] is None and table["state"] != "absent":
        return f"table {table['state']}: {table['reason']}"
    return None


def _no_ranges(answer: Document) -> Optional[str]:
    if answer["ranges"] is None:
        return _no_state(answer) or _knows_no_addresses(answer)
    return None


def _knows_no_addresses(answer: Document) -> str:
    why = "" if answer["source_reason"] is None else f" ({answer['source_reason']})"
    return f"source {answer['source']} knows no addresses{why}"


def _all_unknown(answer: Document) -> Optional[str]:
    if answer["addresses"] is None or answer["source"] == "counters":
        return _no_places(answer)
    if all(entry["state"] == "unknown" for entry in answer["addresses"]):
        return str(answer["addresses"][0]["reason"])
    return None


def _no_map(answer: Document) -> Optional[str]:
    return None if answer["descriptors"] is not None else f"EFI memory map: {answer['note']}"


def _no_e820(answer: Document) -> Optional[str]:
    if any(table is not None for table in answer["tables"].values()):
        return None
    return "e820: " + "; ".join(sorted(set(answer["missing"].values())))


def _no_zones(answer: Document) -> Optional[str]:
    return None if answer["zones"] is not None else f"zones: {answer['missing']}"


def _no_accepting(answer: Document) -> Optional[str]:
    return None if answer["accepting"] is not None else f"accepting_list: {answer['missing']}"


def _resolve_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="as many addresses as there are in it, between blanks (-: standard input): of each the state alone, a "
        "line each; JSON lines, the first of them without addresses",
    )
    which.add_argument(
        "queries",
        metavar="ADDR[-END|+LEN]",
        nargs="*",
        default=[],
        type=_query,
        help="physical address or range: hexadecimal with 0x, or with a suffix K, M, G or T; END is exclusive",
    )


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rule", metavar="NAME", action="append", help="run this rule only (may be repeated)")
    parser.add_argument("-o", "--output", metavar="FILE", help="instead of stdout, written whole or not at all")
    parser.add_argument("--explain", metavar="NAME", help="what a rule means and why, and what to do")


def _map_arguments(parser: argparse.ArgumentParser) -> None:
    from drgn_unaccepted.pictures import add_map_arguments

    add_map_arguments(parser)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    from drgn_unaccepted.pictures import add_report_arguments

    add_report_arguments(parser)


def _snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="written whole or not at all")


def _query(text: str) -> Query:
    from drgn_unaccepted.answer.resolve import parse_query

    try:
        return parse_query(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


QUESTIONS = (
    Question(
        "summary",
        "how much is unaccepted, and who says so",
        _STATE | {"platform", "accepting"},
        _summary,
        _no_state,
    ),
    Question("header", "the fields of struct efi_unaccepted_memory", _STATE, _header, _no_header),
    Question(
        "ranges",
        "what is unaccepted and what is accepted, by physical address",
        _STATE | {"pages", "efi_map"},
        _ranges,
        _no_ranges,
        whole_memmap=_always,
    ),
    Question(
        "resolve",
        "which unit an address is in, whether it was accepted, and what the maps say of it",
        _STATE | {"pages", "efi_map", "e820", "accepting"},
        _resolve,
        _all_unknown,
        _resolve_arguments,
        lambda args: [query.range for query in args.queries],
        whole_memmap=lambda args: args.file is not None,
        more=_resolve_file,
    ),
    Question("efi", "the EFI memory map: what the firmware said", _STATE | {"efi_map"}, _efi, _no_map),
    Question("e820", "the e820 tables: what the kernel made of it", _STATE | {"e820"}, _e820, _no_e820),
    Question("zones", "zone->unaccepted_pages, counters and watermarks", _STATE, _zones, _no_zones),
    Question(
        "accepting",
        "the accepts in flight, with task and CPU",
        _STATE | {"accepting", "efi_map"},
        _accepting,
        _no_accepting,
    ),
    Question(
        "check",
        "hold bitmap, EFI map, e820 and page allocator against each other",
        ALL_PARTS,
        _check,
        add_arguments=_check_arguments,
        formats=("nagios", "prometheus", "junit"),
        offline=_explain,
        exit_status=lambda answer: {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}[answer["status"]],
        confirm=lambda answer: answer["status"] != "ok",
    ),
    Question(
        "map",
        "where unaccepted memory lies, one character for each byte of the bitmap",
        _STATE | {"pages", "efi_map", "e820", "accepting"},
        _map,
        _no_places,
        _map_arguments,
        lambda args: [] if args.window is None else [args.window],
        whole_memmap=_always,
        formats=("svg", "png"),
        show=_show_map,
    ),
    Question(
        "report",
        "everything as one HTML page",
        ALL_PARTS,
        _report,
        add_arguments=_report_arguments,
        whole_memmap=_always,
        show=_show_report,
    ),
    Question(
        "snapshot",
        "write all that can be read to a file, for --snapshot later and elsewhere",
        ALL_PARTS,
        _write_snapshot,
        add_arguments=_snapshot_arguments,
        whole_memmap=_always,
    ),
)
