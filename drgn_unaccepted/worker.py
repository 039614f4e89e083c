# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that reads one target: the command ``check`` under limits.

A dump is hostile input and C code reads it, so an accident there must end no other process. The limits are set before
more than the first bytes of the target are read; the alarm ends a process whose parent is gone.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Sequence
from contextlib import suppress

from drgn_unaccepted import limits
from drgn_unaccepted.cli import main as command_line
from drgn_unaccepted.files import DUMPS, open_dump


def main(argv: Sequence[str]) -> int:
    memory, seconds, path, *options = argv
    bounds = {resource.RLIMIT_AS: int(memory), resource.RLIMIT_CPU: int(seconds), resource.RLIMIT_CORE: 0}
    signal.alarm(int(seconds))
    beginning = b""
    # The command line reports what cannot be opened.
    with suppress(OSError), open_dump(path) as file:
        beginning = file.read(16)
    # A snapshot is JSON, and no dump starts like it.
    kind = "--snapshot" if beginning.startswith(b"{") else "-c"
    if beginning.startswith((b"{", *DUMPS)):
        # All others may be compressed: what is unpacked is a file, too.
        bounds[resource.RLIMIT_FSIZE] = limits.FLEET_LINE_BYTES
    for what, most in bounds.items():
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    while kind == "--snapshot" and "-s" in options:
        # The symbols of a scan are for its dumps.
        at = options.index("-s")
        del options[at : at + 2]
    return command_line([kind, path, *options, "check", "--format", "json"])
