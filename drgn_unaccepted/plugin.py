# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's entry point: registers ``%unaccepted``, and ``unaccepted`` in drgn's crash mode.

It is imported for every user of drgn, so it does no more than that; :mod:`prompt` is for those who use the command.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import Any

try:
    from drgn.commands import argument, parse_shell_command
    from drgn.commands.linux import linux_kernel_custom_command
except ImportError:
    # Before drgn 0.1.0 no plugin can add a command.
    linux_kernel_custom_command = None


def _run(shown: str, prog: Any, name: str, words: list[str], **kwargs: Any) -> None:
    from drgn_unaccepted.prompt import run_command  # for those who use it

    run_command(shown, prog, words)


def _complete(shown: str, completer: Any, readline: Any) -> None:
    """Let Tab complete the words after ``shown``. A completer of drgn knows Python, or the names of commands."""
    complete = completer.complete

    def wrapped(self: Any, text: str, state: int) -> Any:
        line = readline.get_line_buffer()[: readline.get_endidx()]
        if not line.startswith(f"{shown} "):
            return complete(self, text, state)
        from drgn_unaccepted import commands  # for those who use it

        *before, word = line.split(" ")[1:]
        possible = commands.completions(commands.prompt_parser(shown, before), before)
        words = [found for found in possible if found.startswith(word)]
        # readline breaks words at "-", too.
        return f"{words[state][len(word) - len(text) :]} " if state < len(words) else None

    completer.complete = wrapped


if linux_kernel_custom_command is not None:
    declaration: dict[str, Any] = {
        "name": "unaccepted",
        "description": "unaccepted memory of a confidential guest (Intel TDX, AMD SEV-SNP)",
        "usage": "**unaccepted** [*COMMAND*] [*OPTIONS*]",
        "long_description": "Show which memory the guest has not accepted yet: summary (default), header, ranges, "
        "resolve ADDR..., map, check, efi, e820, zones, accepting, watch; write it to a file: report, snapshot, "
        "record, keep. --help after each of them says more.",
        "arguments": (
            argument("COMMAND", nargs="?", help="see above"),
            argument("--source", help="auto, bitmap, reconstructed, page-lists or counters"),
            argument("--format", help="text or json"),
            argument("--drgn", action="store_true", help="print how to do the equivalent operation using drgn APIs"),
        ),
        "parse": parse_shell_command,
    }
    linux_kernel_custom_command(**declaration)(partial(_run, "%unaccepted"))
    try:
        # Private: drgn has no way yet to add a command to its crash mode.
        from drgn.commands._crash.common import CRASH_COMMAND_NAMESPACE

        linux_kernel_custom_command(**declaration, namespace=CRASH_COMMAND_NAMESPACE)(partial(_run, "unaccepted"))
    except (ImportError, TypeError, AttributeError) as error:
        logging.getLogger("drgn").warning("crash mode has no command unaccepted: unknown version of drgn: %s", error)
    with suppress(ImportError, AttributeError):
        # Private as well: drgn has no way to add words to what Tab completes.
        from drgn.commands._crash import _CrashCompleter
        from drgn.internal import repl, rlcompleter

        _complete("%unaccepted", rlcompleter.Completer, repl.readline)
        _complete("unaccepted", _CrashCompleter, repl.readline)
