# SPDX-License-Identifier: LGPL-2.1-or-later
"""The actions: what runs over time, over many targets, or on files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

from drgn_unaccepted.commands.command import Action, Arguments, CommandError, to_stdout

if TYPE_CHECKING:
    from drgn_unaccepted.kernel.target import Opened
    from drgn_unaccepted.record.file import Recording

Open = Callable[[], "Opened"]


def _record(args: Arguments, open_target: Open) -> int:
    from drgn_unaccepted.kernel.sampler import Sampler
    from drgn_unaccepted.record.loop import record, stopped_by_signals

    sampler = Sampler(open_target())
    try:
        with stopped_by_signals() as stop:
            samples = record(sampler.take, args.output, args.interval, args.count, stop)
    except FileExistsError:
        raise CommandError(f"{args.output}: exists already; a recording is never overwritten") from None
    except OSError as error:
        raise CommandError(f"{args.output}: {error.strerror}") from None
    print(f"{args.output}: {samples} samples")
    return 0


def _watch(args: Arguments, open_target: Open) -> int:
    from drgn_unaccepted.kernel.sampler import Sampler
    from drgn_unaccepted.record.loop import samples, stopped_by_signals

    sampler = Sampler(open_target())
    with stopped_by_signals() as stop:
        if args.format == "json":
            from drgn_unaccepted.record.progress import Progress

            progress = Progress("watch", args.source)
            for sample in samples(sampler.take, args.interval, args.count, stop):
                print(json.dumps(progress.document(sample)), flush=True)
        else:
            from drgn_unaccepted.views.watch import watch

            watch(sampler.take, args.interval, args.count, stop, args.source)
    return 0


def _replay(args: Arguments, open_target: Open) -> int:
    from drgn_unaccepted.record.file import Recording, RecordingError
    from drgn_unaccepted.words import safe

    try:
        recording = Recording(args.recording)
    except RecordingError as error:
        raise CommandError(f"{args.recording}: {error}") from None
    except OSError as error:
        raise CommandError(f"{args.recording}: {error.strerror}") from None
    to_stdout(f"{text}\n" for text in _replayed(recording, args))
    if recording.dropped:
        print(f"drgn-unaccepted: {args.recording}: {safe(recording.dropped)}", file=sys.stderr)
    return 0


def _replayed(recording: Recording, args: Arguments) -> Iterator[str]:
    """The lines of ``replay``.

    :raises CommandError: a sample cannot be read
    """
    from drgn_unaccepted.pictures import replay_picture
    from drgn_unaccepted.record.file import RecordingError
    from drgn_unaccepted.record.progress import Progress
    from drgn_unaccepted.views.watch import line

    progress = Progress("replay", args.source)
    try:
        picture = replay_picture(recording, args)
        if picture is not None:
            yield from picture
            return
        for sample in recording:
            document = progress.document(sample)
            yield json.dumps(document) if args.format == "json" else line(document)
    except RecordingError as error:
        raise CommandError(f"{args.recording}: {error}") from None
    except OSError as error:
        raise CommandError(f"{args.recording}: {error.strerror}") from None


def _keep(args: Arguments, open_target: Open) -> int:
    from drgn_unaccepted.kernel.capture import capture
    from drgn_unaccepted.record.keep import boot_id, keep
    from drgn_unaccepted.snapshot import ALL_PARTS, Wanted
    from drgn_unaccepted.snapshot_file import SnapshotFileError
    from drgn_unaccepted.words import safe

    opened = open_target()
    if not opened.is_this_kernel:
        raise CommandError(f"keep files by the boot of this machine, and {opened.name} is not its running kernel")
    try:
        # Reading it makes the kernel set it, so that a dump of this boot has it too.
        boot = boot_id()
        snapshot = capture(opened, Wanted(ALL_PARTS - {"pages"}))
        kept = keep(snapshot, boot, args.directory, args.boots)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from None
    except SnapshotFileError as error:
        raise CommandError(str(error)) from None
    print(kept.snapshot)
    if kept.table is None:
        print(safe(f"without the table: {snapshot.table.state}: {snapshot.table.reason}"))
    if kept.option is not None:
        earlier = "" if kept.table is not None else " (read earlier)"
        print(f"for a crash dump of this boot: --table {kept.option}{earlier}")
    return 0


def _scan(args: Arguments, open_target: Open) -> int:
    from drgn_unaccepted.fleet.command import run_scan

    return run_scan(args)


def _merge(args: Arguments, open_target: Open) -> int:
    from drgn_unaccepted.fleet.command import run_merge

    return run_merge(args)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: not a number of seconds")
    return seconds


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a number from 1")
    return int(text)


def _over_time(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval", metavar="SECONDS", type=_interval, default=1.0, help="from one sample to the next (default: 1)"
    )
    parser.add_argument("--count", metavar="N", type=_positive, help="stop after so many samples (default: never)")


def _record_arguments(parser: argparse.ArgumentParser) -> None:
    _over_time(parser)
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="a new file, in JSON lines")


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    from drgn_unaccepted.pictures import add_replay_arguments

    parser.add_argument("recording", metavar="FILE", help="written by record")
    add_replay_arguments(parser)


def _keep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory", default="/var/lib/drgn-unaccepted", help="where it is kept (default: %(default)s)"
    )
    parser.add_argument(
        "--boots", metavar="N", type=_positive, default=3, help="of so many boots (default: %(default)s)"
    )


def _scan_arguments(parser: argparse.ArgumentParser) -> None:
    from drgn_unaccepted.fleet.options import add_scan_arguments

    add_scan_arguments(parser)


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    from drgn_unaccepted.fleet.options import add_merge_arguments

    add_merge_arguments(parser)


ACTIONS = (
    Action("watch", "the running kernel as it accepts: bytes, rate, zones, who is accepting", _watch, _over_time),
    Action("record", "samples of the running kernel over time, to a file", _record, _record_arguments),
    Action("replay", "a recording: a line for each sample, or a picture", _replay, _replay_arguments, ("svg", "png")),
    Action("keep", "keep the state of this boot for a later crash dump (the flight recorder)", _keep, _keep_arguments),
    Action("scan", "check many vmcores and snapshots, each in its own process: JSON lines", _scan, _scan_arguments),
    Action(
        "merge",
        "what came of scans and checks: the worst findings first, the hosts that stand out",
        _merge,
        _merge_arguments,
        formats=("csv", "parquet"),
    ),
)
