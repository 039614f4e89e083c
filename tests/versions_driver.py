# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prints what the program answers about dumps, as JSON; runs under any Python and drgn that the program supports."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import drgn

from drgn_unaccepted import cli, plugin

QUESTIONS = "summary header ranges efi e820 zones accepting check map resolve".split()
WORDS = {"resolve": ["0x130000000", "0x100000000+4M"]}


def answer(words: list[str]) -> object:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(words)
    document = json.loads(out.getvalue() or "null")
    return status, timeless(document), err.getvalue()


def timeless(document: dict[str, dict[str, object]]) -> object:
    document["target"].pop("taken_at")
    return document


def in_prompt(path: str) -> object:
    """``%unaccepted`` in drgn's prompt; None where drgn has no commands of plugins."""
    if plugin.linux_kernel_custom_command is None:
        return None
    from drgn.commands import run_command

    prog = drgn.Program()
    prog.set_core_dump(path)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        run_command(prog, "unaccepted ranges --format json")
    return timeless(json.loads(out.getvalue()))


def main(dumps: list[str]) -> None:
    answers: dict[str, object] = {}
    for dump in dumps:
        for name in QUESTIONS:
            answers[f"{name} {dump}"] = answer([name, *WORDS.get(name, []), "-c", dump, "--format", "json"])
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "snapshot")
            with contextlib.redirect_stdout(io.StringIO()):
                assert cli.main(["snapshot", "-c", dump, "-o", str(file)]) == 0
            answers[f"snapshot {dump}"] = timeless(json.loads(file.read_text())["snapshot"])
        answers[f"prompt {dump}"] = in_prompt(dump)
    print(json.dumps({"versions": [drgn.__version__, *sys.version_info[:2]], "answers": answers}))


main(sys.argv[1:])
