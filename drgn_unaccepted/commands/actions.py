# SPDX-License-Identifier: LGPL-2.1-or-later
"""The actions: what runs over time, over many targets, or on files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

from drgn_unaccepted.commands.base import Arguments, CommandError
from drgn_unaccepted.run import to_stdout

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
            from drgn_unaccepted.answer.progress import Progress

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
    to_stdout(text for text in _replayed(recording, args))
    for warning in recording.warnings:
        print(f"drgn-unaccepted: warning: {args.recording}: {safe(warning)}", file=sys.stderr)
    if recording.dropped:
        print(f"drgn-unaccepted: {args.recording}: {safe(recording.dropped)}", file=sys.stderr)
    return 0


def _replayed(recording: Recording, args: Arguments) -> Iterator[str]:
    """The lines of ``replay``.

    :raises CommandError: a sample cannot be read
    """
    from drgn_unaccepted.answer.progress import Progress
    from drgn_unaccepted.pictures import replay_picture
    from drgn_unaccepted.record.file import RecordingError
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
