# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that looks at one target: the command ``check`` under limits.

    main(["MEMORY_BYTES", "SECONDS", "PATH", *OPTIONS])

It is started by :mod:`drgn_unaccepted.fleet.process`, isolated (``python -I``) and in the root directory.
A dump is hostile input and its readers are written in C: what goes wrong here ends this process and nothing else.
The limits are set before anything of the target is read. An alarm ends a process whose parent is gone.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Sequence

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_dump


def limit(memory: int, seconds: int) -> None:
    """Limit this process: address space, CPU time, wall time, bytes of a file; no core dumps."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, limits.FLEET_LINE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    signal.alarm(seconds)


def main(argv: Sequence[str]) -> int:
    memory, seconds, path, *options = argv
    limit(int(memory), int(seconds))
    from drgn_unaccepted.cli import main as command_line

    kind = _option(path)
    if kind == "--snapshot":
        # The symbols of a scan are for its dumps.
        while "-s" in options:
            at = options.index("-s")
            del options[at : at + 2]
    return command_line([kind, path, *options, "check", "--format", "json"])


def _option(path: str) -> str:
    """A snapshot is JSON, and no dump begins like it."""
    try:
        with open_dump(path) as file:
            return "--snapshot" if file.read(1) == b"{" else "-c"
    except OSError:
        # Told by the command line, in its own words.
        return "-c"
