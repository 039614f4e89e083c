# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files made to break a parser, and names made to break a terminal, a page or a spreadsheet."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from drgn_unaccepted.fleet.targets import BESIDE
from drgn_unaccepted.snapshot import Accept, AcceptingList, NamedRange, Platform, Snapshot, Task
from drgn_unaccepted.snapshot_file import write
from tests.checks import build
from tests.fuzz import files, run
from tests.fuzz.run import ANSWERED, REFUSED, Outcome, answered, outcome_of
from tests.snapshot_strategies import HOSTILE_TEXTS

pytestmark = pytest.mark.long

NESTED = ("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000)
#: Values for fields that are numbers.
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 5_000, "1" + "0" * 400, "-0.5", '"1"', "true")


def changed(kind: str, change: Callable[[str], str]) -> bytes:
    if kind == "snapshot":
        return change(files.snapshot_text("6.12-fill")).encode()
    header, first, *rest = files.recording_lines()
    return "\n".join([header, change(first), *rest, ""]).encode()


CHANGES: dict[str, Callable[[str], str]] = {
    **{f"nested {n}": lambda text, deep=deep: text.replace("null", deep, 1) for n, deep in enumerate(NESTED)},  # type: ignore[misc]
    **{
        f"{number[:9]} {field}": lambda text, field=field, number=number: re.sub(  # type: ignore[misc]
            rf'"{field}": ?\d+', f'"{field}": {number}', text, count=1
        )
        for field in ("unit_size", "start_pfn", "cpus")
        for number in NUMBERS
    },
    "schema twice": lambda text: '{"schema": "x", ' + text[1:],
    "a table twice": lambda text: text.replace('"table":', '"table": null, "table":', 1),
    "a surrogate for a key": lambda text: text.replace('"missing"', '"\\udc80": 1, "missing"', 1),
    "NUL in a name": lambda text: re.sub(r'"name": ?"', r'"name": "\\u0000', text, count=1),
    "a bitmap that unpacks to 1 GiB": lambda text: re.sub(
        r'"bitmap": ?"[^"]*"', f'"bitmap": "{files.big_bomb()}"', text, count=1
    ),
    "every list unpacks to 64 MiB": lambda text: re.sub(
        r'"(pfns|flags|refcounts|page_types)": ?"[^"]*"', rf'"\1": "{files.BOMB}"', text
    ),
    "a bomb in a bomb": lambda text: re.sub(
        r'"bitmap": ?"[^"]*"',
        f'"bitmap": "{base64.b64encode(zlib.compress(zlib.compress(bytes(64 << 20)))).decode()}"',
        text,
        count=1,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", ("snapshot", "recording"))
def test_a_file_that_is_no_file_of_ours(kind: str, name: str, tmp_path: Path) -> None:
    data = changed(kind, CHANGES[name])
    assert data != changed(kind, str), "nothing was changed"
    check = files.check_snapshot if kind == "snapshot" else files.check_recording
    # A line of a recording may contain more than is read, and unknown fields are left out with a warning.
    harmless = name in ("NUL in a name", "a surrogate for a key") or (kind, name) == ("recording", "schema twice")
    outcome_of(lambda: check(data, tmp_path), *((ANSWERED, REFUSED) if harmless else (REFUSED,)))


BOMBS = (*NESTED, "NaN", '{"schema": NaN}', '{"id": 1, "id": 2}', "a\0b", '{"path": "%s"}' % ("x" * 5_000))
BOMBS += ('{"path": "a\\u0000b"}', '{"path": "a\\ud800b"}')


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: repr(bomb)[1:25])
@pytest.mark.parametrize("place", ("records", "manifest", "beside", "merged"))
def test_a_bomb_among_the_files_of_a_fleet(place: str, bomb: str, tmp_path: Path) -> None:
    path = tmp_path / ("path.list" if place == "manifest" else "path")
    path.write_text(bomb + "\n")
    target = tmp_path / "target"
    target.write_bytes(files.snapshot_text("6.12-fill").encode())
    (tmp_path / f"target{BESIDE}").write_text(bomb + "\n" if place == "beside" else "")
    argv: dict[str, tuple[object, ...]] = {
        "records": ("scan", "--quiet", "-o", path, target),
        "manifest": ("scan", "--quiet", path),
        "beside": ("scan", "--quiet", "--beside", target),
        "merged": ("merge", path),
    }

    outcome = outcome_of(lambda: answered(*argv[place], notes=9))
    if place == "records":
        assert path.read_text() == bomb + "\n" and "left alone" in outcome.text


# Names


def named(name: str) -> Snapshot:
    """A snapshot with this name in every text that a target can choose."""
    clean = build.clean()
    zones = tuple(replace(zone, name=name[:15], problems=(name,), locked=True) for zone in clean.zones or ())
    task = Task(1, name[:15], 0)
    return replace(
        clean,
        target=replace(clean.target, path=name, release=name, build_id=name, snapshot_path=None),
        zones=zones,
        accepting=AcceptingList((Accept(0xFFFF888000000000, 12, 14, task),), (name,)),
        platform=Platform("tdx", name, None, None),
        kernel_memory=(NamedRange(name, 0x100000000, 0x100200000),),
        reclaiming=(task,),
        panic=name,
        missing={"kexec_segments": name, name: name},
        torn=(name,),
    )


@pytest.mark.parametrize("name", HOSTILE_TEXTS, ids=lambda name: ascii(name)[1:15])
def test_names(name: str, tmp_path: Path) -> None:
    snapshot, page = tmp_path / "snapshot", tmp_path / "page"
    write(named(name), str(snapshot))

    def check() -> Outcome:
        run.ask_everything(snapshot)
        given = ("--snapshot", snapshot)
        for format_ in ("text", "json", "nagios", "prometheus", "junit"):
            out = tmp_path / format_
            run.command(*given, "check", "--format", format_, fails=run.CHECK_STATUS)
            run.command(*given, "check", "--format", format_, "-o", out, fails=run.CHECK_STATUS)
        json.loads((tmp_path / "json").read_text())
        ElementTree.parse(tmp_path / "junit")
        run.command(*given, "report", "-o", page)
        run.command("scan", "--quiet", "-o", tmp_path / "records", snapshot)
        for format_ in ("text", "json", "csv"):
            run.command("merge", "--format", format_, tmp_path / "records")
            run.command("merge", "--format", format_, "-o", tmp_path / f"merged.{format_}", tmp_path / "records")
        return Outcome(ANSWERED, "")

    outcome_of(check, ANSWERED)
    for written in ("text", "nagios", "prometheus", "junit", "merged.text", "page"):
        text = (tmp_path / written).read_text("utf-8")
        assert not [c for c in text if not c.isprintable() and c != "\n"], written
    write(build.clean(), str(tmp_path / "clean"))
    run.command("--snapshot", tmp_path / "clean", "report", "-o", tmp_path / "clean.html")
    html, clean = page.read_text(), (tmp_path / "clean.html").read_text()
    assert "<script>alert" not in html and html.count("</script>") == clean.count("</script>")
