# SPDX-License-Identifier: LGPL-2.1-or-later
"""``%unaccepted`` at drgn's prompt."""

from __future__ import annotations

import re
from typing import Any

import drgn
from drgn.commands import CommandError

from drgn_unaccepted import commands, errors
from drgn_unaccepted.files import to_stderr
from drgn_unaccepted.kernel.capture import samples
from drgn_unaccepted.kernel.crash_kernel import table_beside
from drgn_unaccepted.run import run
from drgn_unaccepted.targets.adopt import adopt


def run_command(shown: str, prog: drgn.Program, words: list[str]) -> None:
    """Carry out the command that ``words`` after ``shown`` name. CommandError: it has no answer; the reason."""

    def warn(text: str) -> None:
        to_stderr(f"{shown}: warning: {text}")

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
        command, args = commands.parse(commands.prompt_parser(shown, asked), asked)
        if asked != words:
            print(_code(args.command, [query.start for query in getattr(args, "queries", ())]))
        else:
            run(command, args, open_target, take)
    except SystemExit:
        return  # --help
    except (errors.TargetError, errors.CommandError) as error:
        raise CommandError(errors.one_line(error)) from None


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
    modules = {"judge": ".answer.best_source", "list": None, "run_checks": ".checks"}
    found = ((name, modules.get(name, "")) for name in re.findall(r"(\w+)\(", text))
    imports = [f"from drgn_unaccepted{module} import {name}\n" for name, module in found if module is not None]
    return f"{''.join(imports)}\n{command} = {text}"
