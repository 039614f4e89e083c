# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that earlier versions wrote are read for ever, and give the answers that they gave.

answers.json has, for each command, what the version that wrote these files answered. Text with blanks in it is
left out, because wording may change. New keys are allowed. Never write a file in this directory anew: add one.

Where the old answer was not exact, a later version may know more: these states are compared with the guest's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.asking import Capsys, Patch, ask, run

HERE = Path(__file__).parent
BOOT = "0f0e0d0c-0b0a-4908-8706-050403020100"
SNAPSHOTS = ("kdump.json", "kdump-with-table.json", "ram.json", "linux-7.3.json")
QUESTIONS = (
    "summary",
    "header",
    "ranges",
    "resolve 0x100000 4G+1M 0x10c000000+32M 5G 64G",
    "efi",
    "e820",
    "zones",
    "accepting",
    "check",
    "map",
)
COMMANDS = (
    *(f"--snapshot {snapshot} {question}" for snapshot in SNAPSHOTS for question in QUESTIONS),
    f"--snapshot kept/{BOOT}/snapshot.json check",
    "replay series.rec",
    "merge scan.jsonl",
    "merge beside",
    f"-c ../../vmcore-samples/6.12-edges/vmcore --table kept/{BOOT}/table-0x1f773018.bin@0x1f773018 ranges",
    f"-c ../../vmcore-samples/6.12-edges/vmcore --table kept/{BOOT}/snapshot.json ranges",
)


def facts(value: Any) -> Any:
    """A document without its sentences; findings by rule."""
    if isinstance(value, dict):
        return {
            key: facts(item)
            for key, item in value.items()
            if not (isinstance(item, str) and (" " in item or key in ("path", "taken_at", "file")))
        }
    if isinstance(value, list) and value and isinstance(value[0], dict) and "rule" in value[0]:
        return {item["rule"]: facts({key: item[key] for key in item.keys() - {"rule"}}) for item in value}
    if isinstance(value, list):
        return [facts(item) for item in value if not (isinstance(item, str) and " " in item)]
    return value


#: What that version did not know: addresses without RAM are no accepted memory.
BETTER = {("accepted", "no-ram"), ("unknown", "no-ram"), ("unknown", "accepted")}
#: The states of the guest that kdump.json is of, from its RAM dump.
UNACCEPTED = [(0x125A00000, 0x128000000), (0x128600000, 0x138000000)]


def lost(old: Any, new: Any, where: str = "") -> list[str]:
    """What stands in the old facts and not, or not so, in the new ones."""
    if isinstance(old, dict) and isinstance(new, dict):
        dropped = STATE if old.get("exact") is False else {"needs"}
        old = {key: item for key, item in old.items() if key not in dropped}
        return [text for key, item in old.items() for text in lost(item, new.get(key, "no such key"), f"{where}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [text for i, pair in enumerate(zip(old, new)) for text in lost(*pair, f"{where}[{i}]")]
    if where.endswith(".state") and (old, new) in BETTER:
        return []
    return [] if old == new else [f"{where}: {old} was answered, now {new}"]


#: Keys whose values follow from the source.
STATE = frozenset(
    "source exact covered_bytes unaccepted_bytes unaccepted_runs unaccepted_span ranges possible_guards addresses rows "
    "totals findings status".split()
)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_old_file_is_answered_as_ever(command: str, capsys: Capsys, monkeypatch: Patch) -> None:
    monkeypatch.chdir(HERE)
    old = json.loads((HERE / "answers.json").read_text())[command]
    new = [facts(json.loads(line)) for line in run(capsys, *command.split(), "--format", "json")[1].splitlines()]
    assert old and len(old) == len(new)
    if command.endswith("check"):
        # "The first accept panics", of a lab guest that had accepted memory.
        assert old[0]["findings"].pop("platform-can-accept")["status"] == "warning"
        assert (old[0].pop("status"), new[0]["status"]) in (("warning", "ok"), ("warning", "warning"))
    if command.startswith("replay"):
        # Its bitmap is torn: the EFI memory map in the same file excludes it.
        assert (old.pop(6)["source"], new.pop(6)["source"]) == ("bitmap", "reconstructed")
    assert not [text for pair in zip(old, new) for text in lost(*pair)]


@pytest.mark.parametrize("name", ["kdump.json", "kdump-with-table.json"])
def test_an_old_kdump_has_the_states_of_its_guest(name: str, capsys: Capsys) -> None:
    _, answer, _ = ask(capsys, "--snapshot", HERE / name, "ranges")
    assert answer["exact"]
    assert [(r["start"], r["end"]) for r in answer["ranges"] if r["state"] == "unaccepted"] == UNACCEPTED
