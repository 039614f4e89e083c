# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program, asked in this process."""

from __future__ import annotations

import pytest

from drgn_unaccepted.cli import main

Capsys = pytest.CaptureFixture[str]


def run(capsys: Capsys, *argv: object) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    try:
        status = main([str(argument) for argument in argv])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return (status, *capsys.readouterr())


def answered(capsys: Capsys, *argv: object) -> str:
    """What was printed of an answer."""
    status, out, err = run(capsys, *argv)
    assert (status, err) == (0, "")
    return out


def refused(capsys: Capsys, *argv: object) -> str:
    """The one line with which it was refused."""
    status, out, err = run(capsys, *argv)
    assert (status, out) == (3, "") and len(err.splitlines()) == 1
    return err
