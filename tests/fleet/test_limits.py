# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits of what is kept of a fleet: at the limit all of it, beyond it as much, and how many there are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.fleet.merge import merge
from drgn_unaccepted.fleet.process import _last_words
from drgn_unaccepted.fleet.text import text
from tests.fleet.test_merge import header, scanned, write

NAMED = 20
COUNTS = pytest.mark.parametrize("count", [NAMED, NAMED + 1])


def test_last_words() -> None:
    """Of a line that is longer the end is kept: there the exception's own words are."""
    most = "".join(chr(ord("a") + n % 26) for n in range(limits.FLEET_LAST_WORDS_BYTES))
    assert len(most) == 4096
    assert _last_words(io.BytesIO(most.encode())) == most
    for said in (f"|{most}", f"line\n|{most}"):
        assert _last_words(io.BytesIO(said.encode())) == f"...{most}"
    assert _last_words(io.BytesIO(f"line\n{most[1:]}".encode())) == most[1:]


@COUNTS
def test_examples_of_a_finding(count: int, tmp_path: Path) -> None:
    findings = [("orphan-bits", "warning")]
    file = write(tmp_path / "a", *(scanned(n, findings, host=f"guest-{n:02}") for n in range(count)))
    (found,) = merge([file])["findings"]
    assert [example["host"] for example in found["examples"]] == [f"guest-{n:02}" for n in range(NAMED)]
    assert (found["targets"], found["hosts"]) == (count, count)


@COUNTS
@pytest.mark.parametrize("error", ["crash", None])
def test_examples_without_an_answer(error: Optional[str], count: int, tmp_path: Path) -> None:
    records = [scanned(n, error=error, host=f"guest-{n:02}") for n in range(count)]
    if error is None:
        records = [{**record, "status": "unknown", "source_reason": "no table"} for record in records]
    summary = merge([write(tmp_path / "a", *records)])
    part = summary["unknown"] if error is None else summary["failed"][0]
    assert [example["host"] for example in part["examples"]] == [f"guest-{n:02}" for n in range(NAMED)]
    assert part["targets"] == count


@COUNTS
@pytest.mark.parametrize("column", ["release", "platform"])
def test_kinds_of_targets_with_a_finding(column: str, count: int, tmp_path: Path) -> None:
    """All of them, as in the table of all kinds: there are few, and a missing one would be taken for sound."""
    kinds: list[dict[str, Any]] = [{column: f"kind-{n:02}"} for n in (*range(NAMED), *range(count))]
    records = [scanned(n, [("orphan-bits", "warning")], **kind) for n, kind in enumerate(kinds)]
    summary = merge([write(tmp_path / "a", *records)])
    (found,) = summary["findings"]
    assert found[f"{column}s"] == {f"kind-{n:02}": 2 if n < NAMED else 1 for n in range(count)}
    assert found["targets"] == NAMED + count
    assert len(summary[f"{column}s"]) == count


@COUNTS
def test_hosts_that_stand_out(count: int, tmp_path: Path) -> None:
    records = [scanned(n, [("orphan-bits", "warning")], host=f"guest-{n:02}") for n in range(count)]
    records += [scanned(n, host=f"guest-{n}") for n in range(100, 200)]
    summary = merge([write(tmp_path / "a", *records)])
    assert [host["host"] for host in summary["standing_out"]] == [f"guest-{n:02}" for n in range(NAMED)]
    assert summary["standing_out_hosts"] == count


@COUNTS
def test_damaged_lines(count: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("damaged\n" * count)
    summary = merge([str(tmp_path / "a"), write(tmp_path / "b", scanned(1))])
    assert [problem["where"].rsplit(":", 1)[1] for problem in summary["problems"]] == [
        str(n) for n in range(1, NAMED + 1)
    ]
    assert summary["problem_count"] == count
    lines = [line for line in text(summary) if line.startswith("DAMAGED: ")]
    assert (len(lines), lines[NAMED:]) == (count, ["DAMAGED: 1 more line"] * (count - NAMED))


@COUNTS
def test_shards_that_are_missing(count: int, tmp_path: Path) -> None:
    (lack,) = merge([write(tmp_path / "a", header(0, count + 1, 1), scanned(1))])["incomplete"]
    named = ", ".join(map(str, range(1, NAMED + 1)))
    assert lack == f"no file of shard {named}{' and 1 more' if count > NAMED else ''} of {count + 1}"
