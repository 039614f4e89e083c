# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's entry point: registers ``%unaccepted``, and ``unaccepted`` in drgn's crash mode.

It is imported for every drgn user, so it does no more than that.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import drgn

try:
    from drgn.commands import CommandError, argument, parse_shell_command
    from drgn.commands.linux import linux_kernel_custom_command
except ImportError:
    # Before drgn 0.1.0 no plugin can add a command.
    linux_kernel_custom_command = None


def _run(shown: str, prog: drgn.Program, name: str, words: list[str], **kwargs: Any) -> None:
    # Each user of drgn imports this module; the rest is for those who use the command.
    from drgn_unaccepted import commands, errors
    from drgn_unaccepted.kernel.capture import samples
    from drgn_unaccepted.kernel.target import adopt
    from drgn_unaccepted.run import run, table_beside
    from drgn_unaccepted.words import safe

    def warn(text: str) -> None:
        print(f"{shown}: warning: {safe(text)}", file=sys.stderr)

    def open_target() -> Any:
        opened = adopt(prog)
        for warning in opened.warnings:
            warn(warning)
        return opened

    def take(wanted: Any) -> Any:
        opened = open_target()
        return samples(opened, wanted, table_beside(opened, warn))

    asked = [word for word in words if word != "--drgn"]
    try:
        command, args = commands.parse(_parser(shown, asked), asked)
        if asked != words:
            print(_code(args.command, [query.start for query in getattr(args, "queries", ())]))
        else:
            run(command, args, open_target, take)
    except SystemExit:
        return  # --help
    except (errors.TargetError, errors.CommandError) as error:
        raise CommandError(errors.one_line(error)) from None


def _parser(shown: str, words: list[str]) -> Any:
    from drgn_unaccepted import commands

    parser = commands.Parser(prog=shown, description="Show unaccepted memory.", parents=[commands.common_options()])
    commands.add_commands(parser, [], words)
    return parser


#: What :func:`_code` assigns, by command.
_CODE = {
    "header": "efi_unaccepted_table()",
    "ranges": "list(for_each_unaccepted_range())",
    "resolve": "[resolve_address(address) for address in [{}]]",
    "efi": "efi_memory_map()",
    "e820": "e820_table()",
    "accepting": "list(for_each_accepting_range())",
    "zones": "take_snapshot().zones",
    "check": "run_checks(take_snapshot()).findings",
    "snapshot": "take_snapshot()",
}


def _code(command: str, addresses: list[int]) -> str:
    """The code that does the same with the helpers, as ``--drgn`` of drgn's own commands prints it."""
    text = _CODE.get(command, "judge(take_snapshot())").format(", ".join(map(hex, addresses)))
    modules = {"judge": ".answer.judgement", "list": None, "run_checks": ".checks"}
    found = ((name, modules.get(name, "")) for name in re.findall(r"(\w+)\(", text))
    imports = [f"from drgn_unaccepted{module} import {name}\n" for name, module in found if module is not None]
    return f"{''.join(imports)}\n{command} = {text}"


def _complete(shown: str, completer: Any, readline: Any) -> None:
    """Let Tab complete the words after ``shown``. A completer of drgn knows Python, or the names of commands."""
    complete = completer.complete

    def wrapped(self: Any, text: str, state: int) -> Any:
        line = readline.get_line_buffer()[: readline.get_endidx()]
        if not line.startswith(f"{shown} "):
            return complete(self, text, state)
        from drgn_unaccepted.commands import completions

        *before, word = line.split(" ")[1:]
        words = [found for found in completions(_parser(shown, before), before) if found.startswith(word)]
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
