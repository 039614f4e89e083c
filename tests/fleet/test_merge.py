# SPDX-License-Identifier: LGPL-2.1-or-later
"""``merge``: nothing lost, nothing counted twice, the worst first. The records are written by hand."""

from __future__ import annotations

import csv
import itertools
import json
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.checks import rule_names
from drgn_unaccepted.cli import main
from drgn_unaccepted.fleet import merge as merging
from drgn_unaccepted.fleet.documents import MergeSummary
from drgn_unaccepted.fleet.merge import Merged as Records
from drgn_unaccepted.fleet.text import text
from tests.asking import Capsys
from tests.fleet.tools import NOW, Record, check_document, finding, scanned

SOONER, LATER = (f"2025-{month}-01T12:00:00+00:00" for month in (10, 12))

Merged = Callable[..., MergeSummary]


def anew(number: int, **changes: Any) -> Record:
    """The dump of a record, written anew: another content at the same place."""
    return {**scanned(number, **changes), "id": f"{number + (1 << 64):032x}"}


def merge(files: Sequence[str]) -> MergeSummary:
    return Records(dict.fromkeys(files, True)).summary()


def header(shard: int, shards: int, targets: int, done: int = 0) -> Record:
    run = {"schema": "drgn-unaccepted/1", "command": "scan", "shard": [shard, shards]}
    return {**run, "targets": targets, "done": done}


def write(path: Path, *documents: Record) -> str:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return str(path)


@pytest.fixture(autouse=True)
def more_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that the records here name."""
    names = ["a", "b", "c", "common", "rare", "rarest", "seldom", "planted", "told-by-two", *rule_names()]
    monkeypatch.setattr(merging, "rule_names", lambda: names)


@pytest.fixture
def merged(tmp_path: Path) -> Merged:
    """The summary of files, each a list of documents: ``0.jsonl``, ``1.jsonl``, ..."""
    return lambda *files: merge([write(tmp_path / f"{n}.jsonl", *documents) for n, documents in enumerate(files)])


def test_the_worst_finding_is_the_first_line_and_no_verdict_follows_the_warnings(merged: Merged) -> None:
    common = [("platform-can-accept", "warning"), ("table-captured", "info")]
    records = [scanned(n, common, host=f"guest-{n}") for n in range(8)]
    records.append(scanned(8, [common[0], ("allocated-pages-accepted", "critical")], host="guest-8"))
    unknown = {"status": "unknown", "source_reason": "no page"}
    summary = merged([*records, *(scanned(n, host=f"guest-{n}", **unknown) for n in (10, 11))])
    lines = list(text(summary))
    assert lines[:5] == [
        "CRITICAL allocated-pages-accepted: 1 of 11 hosts: guest-8 (/crash/8/vmcore): allocated-pages-accepted of 8",
        "WARNING  platform-can-accept: 9 of 11 hosts, for example guest-0 (/crash/0/vmcore): platform-can-accept of 0",
        "UNKNOWN  no verdict: 2 of 11 hosts, for example guest-10 (/crash/10/vmcore): no page",
        "INFO     table-captured: 8 of 11 hosts, for example guest-0 (/crash/0/vmcore): table-captured of 0",
        "",
    ]
    assert "11 targets of 11 hosts: 1 critical, 8 warning, 2 unknown" in lines
    # No findings are well only where all answered.
    for record, words in (
        (scanned(2, **unknown), "UNKNOWN  no verdict: 1 of 2 targets: /crash/2/vmcore: no page"),
        (scanned(2), "OK: no findings"),
        (scanned(2, error="crash"), "UNKNOWN: no findings, 1 of 2 targets gave no answer"),
    ):
        assert next(text(merged([scanned(1), record]))) == words


def test_counts_by_rule_release_platform_and_host(merged: Merged) -> None:
    of_a = [scanned(n, [("orphan-bits", "warning")], host="a", release=r) for n, r in ((1, "6.12.117"), (2, "7.3.4"))]
    failed = scanned(4, error="crash", host="c", platform=None, release="7.3.4")
    summary: Any = merged([*of_a, scanned(3, host="b", platform="snp"), failed])
    assert (summary["targets"], summary["hosts"], summary["doubles"]) == (4, 3, 0)
    (found,) = summary["findings"]
    assert (found["rule"], found["status"], found["targets"], found["hosts"]) == ("orphan-bits", "warning", 2, 1)
    assert found["releases"] == {"6.12.117": 1, "7.3.4": 1} and found["platforms"] == {"tdx": 2}
    example = {"host": "c", "path": "/crash/4/vmcore", "message": "because 4"}
    (failed,) = summary["failed"]
    assert (failed["kind"], failed["targets"], failed["examples"]) == ("crash", 1, [example])
    statuses = {"critical": 0, "warning": 2, "ok": 1, "unknown": 0, "failed": 1}
    assert summary["statuses"] == statuses
    names = ("release", "platform", "targets", *statuses)
    rows = [[row[name] for name in names if name in row] for row in (*summary["releases"], *summary["platforms"])]
    assert rows[:2] == [["6.12.117", 2, 0, 1, 1, 0, 0], ["7.3.4", 2, 0, 1, 0, 0, 1]]
    assert rows[2:] == [["tdx", 2, 0, 2, 0, 0, 0], [None, 1, 0, 0, 0, 0, 1], ["snp", 1, 0, 0, 1, 0, 0]]


def test_of_one_content_in_several_files_the_worst_counts_once(merged: Merged) -> None:
    one = [scanned(1), scanned(2, error="timeout"), scanned(3, [("a", "critical")])]
    two = [scanned(2, [("b", "warning")]), scanned(1, error="timeout", finished_at=LATER)]
    two.append(scanned(3, [("a", "warning")], finished_at=SOONER))
    for files in ([one, two], [two, one]):
        summary = merged(*files)
        assert (summary["targets"], summary["doubles"]) == (3, 3)
        assert summary["statuses"] == {"critical": 1, "warning": 1, "ok": 0, "unknown": 0, "failed": 1}
        assert any("; 3 duplicates dropped" in line for line in text(summary))


def test_a_dump_that_was_written_anew_replaces_its_record(merged: Merged) -> None:
    """Whether or not there is an answer, in whatever order; a dump elsewhere stays."""
    records = [scanned(1, error="unreadable"), scanned(2, [("a", "critical")])]
    records += [scanned(3, [("a", "warning")], finished_at=LATER), scanned(4)]
    records += [anew(1, findings=[("b", "warning")], finished_at=LATER)]
    summary = merged([*records, anew(2, error="unreadable", finished_at=LATER), anew(3)])
    assert (summary["targets"], summary["doubles"], summary["replaced"]) == (4, 0, 3)
    assert summary["statuses"] == {"critical": 0, "warning": 2, "ok": 1, "unknown": 0, "failed": 1}
    assert any(line.endswith("; 3 replaced by a later scan") for line in text(summary))
    # /var/crash/STAMP/vmcore in files of two machines are two dumps; nor does one file say what another one lost.
    summary = merged([scanned(1), scanned(2, host="b")], [anew(1), anew(2, host="b", finished_at=LATER)])
    assert (summary["targets"], summary["replaced"]) == (4, 0)


def lie(where: str, **changes: Any) -> Record:
    """A record that says that it is the victim's: of the same guest, path, content or all of them."""
    of = scanned(1, host="victim")
    same = {"id": of["id"], "host": "victim", "target": of["target"]}
    other = {"id": f"{9:032x}", "host": "liar", "target": {**of["target"], "path": "/x"}}
    return {**of, **(same if where == "all" else {**other, where: same[where]}), **changes}


@pytest.mark.parametrize("finished_at", [NOW, LATER, "9999-01-01T00:00:00+00:00"])
@pytest.mark.parametrize("where", ["id", "host", "target", "all"])
def test_no_file_hides_what_another_one_found(where: str, finished_at: str, merged: Merged, tmp_path: Path) -> None:
    """Whose an answer is, its file says. The liar is well, has another fault, or gave no answer."""
    victim = scanned(1, [("a", "critical")], host="victim")
    bad = scanned(1, [("b", "critical")])
    failed = {"error": {"kind": "crash", "reason": "x"}, "status": "unknown"}
    for changes in ({}, {"findings": bad["findings"], "status": "critical"}, failed):
        files = [victim], [lie(where, finished_at=finished_at, **changes)]
        for order in (files, files[::-1]):
            found = [finding for finding in merged(*order)["findings"] if finding["rule"] == "a"]
            assert [(one["status"], one["examples"][0]["host"]) for one in found] == [("critical", "victim")]
    # An answer of check says no host: its file is named after it.
    said = check_document(host="victim", status="ok", target={**check_document()["target"], "taken_at": finished_at})
    answers = {"victim": {**said, "findings": [finding("a", "critical")], "status": "critical"}, "liar": said}
    for name, answer in answers.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(answer))
    summary = merge([str(tmp_path / f"{name}.json") for name in answers])
    assert summary["hosts"] == 2 and summary["findings"][0]["examples"][0]["host"] == "victim"


def test_in_one_file_the_newest_counts_but_for_times_in_the_future(merged: Merged, tmp_path: Path) -> None:
    """A guest that was repaired is well again, whatever the order; a clock that is wrong hides nothing."""
    ill, well = scanned(1, [("a", "critical")], host="g"), anew(1, host="g", finished_at=LATER)
    for records in ([ill, well], [well, ill]):
        assert merged(records)["statuses"]["ok"] == 1
    # Of another zone, without one, and of the same second.
    for finished_at in ("2025-11-01T10:00:01-02:00", "2025-11-01T12:00:01", NOW):
        assert merged([ill, {**well, "finished_at": finished_at}])["statuses"]["ok"] == 1
    future = "9999-01-01T00:00:00+00:00"
    for records in ([ill, {**well, "finished_at": future}], [{**ill, "finished_at": future}, well]):
        summary = merged(records)
        assert summary["statuses"]["critical"] == summary["problem_count"] == 1
        assert summary["problems"][0]["reason"] == f"its time is in the future: {future}"
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(check_document(status=s)) + "\n" for s in ("critical", "ok")))
    assert merge([str(tmp_path / "g.jsonl")])["statuses"]["ok"] == 1


def test_json_of_others_in_a_directory_is_skipped_by_name(tmp_path: Path, capsys: Capsys) -> None:
    """But not where the file itself is named, and not what is damaged."""
    write(tmp_path / "a.jsonl", scanned(1))
    for name, content in (("package.json", '{\n"name": 1}\n'), ("b.jsonl", "[]\n1\n"), ("c.json", '{"schema": ')):
        (tmp_path / name).write_text(content)
    assert main(["merge", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.err == f"merge: skipped {tmp_path}/b.jsonl and 1 more file: not written by scan or check\n"
    assert [line for line in said.out.splitlines() if "DAMAGED" in line] == [f"DAMAGED: {tmp_path}/c.json:1: cut off"]
    assert main(["merge", str(tmp_path), str(tmp_path / "package.json")]) == 0
    assert f"DAMAGED: {tmp_path}/package.json: no record of scan or check\n" in capsys.readouterr().out


def test_who_stands_out(merged: Merged) -> None:
    """What most hosts have is no one's own; of 10 hosts, 3 share one fault and 1 has another."""
    hosts = [[("common", "critical")] for _ in range(10)]
    for number in (2, 3, 4):
        hosts[number].append(("rare", "warning"))
    hosts[4].append(("rarest", "warning"))
    hosts[5].append(("seldom", "info"))
    hosts[9].append(("planted", "critical"))
    summary = merged([scanned(n, found, host=f"guest-{n}") for n, found in enumerate(hosts)])
    assert [host["host"] for host in summary["standing_out"]] == ["guest-9", "guest-4", "guest-2", "guest-3"]
    odd = [(found["rule"], found["status"], found["hosts"]) for found in summary["standing_out"][1]["findings"]]
    assert odd == [("rarest", "warning", 1), ("rare", "warning", 3)]
    assert summary["standing_out_hosts"] == 4
    # Of two that could tell, the one that fails; alone it has nothing to stand out from.
    ill, well = scanned(1, [("planted", "critical")], host="a"), scanned(2, host="b")
    kdump = scanned(3, host="c", skipped=["planted"])
    assert [host["host"] for host in merged([ill, well, kdump])["standing_out"]] == ["a"]
    assert merged([ill, kdump])["standing_out"] == []


def test_a_host_without_an_answer_or_that_skipped_a_rule_did_not_pass_it(merged: Merged) -> None:
    """Four guests of ten answered; all four fail one rule, and the two of them that could tell fail another."""
    both = [("common", "critical"), ("told-by-two", "warning")]
    records = [scanned(n, both, host=f"guest-{n}") for n in (0, 1)]
    records += [scanned(n, both[:1], host=f"guest-{n}", skipped=["told-by-two"]) for n in (2, 3)]
    records += [scanned(n, error="timeout", host=f"guest-{n}") for n in range(4, 10)]
    summary = merged(records)
    assert (summary["hosts"], summary["answered_hosts"], summary["standing_out"]) == (10, 4, [])
    assert [(found["hosts"], found["told_hosts"]) for found in summary["findings"]] == [(4, 4), (2, 2)]
    # Another dump of the same guest told the rule that the first one skipped.
    again = merged([*records, scanned(20, host="guest-2")])
    assert [found["told_hosts"] for found in again["findings"]] == [4, 3]


def test_targets_without_a_guest_s_name_are_no_hosts(merged: Merged) -> None:
    one = [scanned(1, [("a", "warning")]), scanned(2)]
    lines = list(text(merged(one)))
    assert lines[0] == "WARNING  a: 1 of 2 targets: /crash/1/vmcore: a of 1"
    assert "2 targets (scan --host names their guests): 1 warning, 1 ok" in lines
    # The same path on another machine is another target.
    summary = merged(one, [scanned(1, [("a", "warning")], id=f"{9:032x}"), scanned(3, host="guest-3")])
    assert (summary["targets"], summary["hosts"], summary["unnamed_targets"]) == (4, 4, 3)
    assert summary["findings"][0]["hosts"] == 2 and summary["findings"][0]["examples"][0]["host"] is None
    assert "4 targets of 4 hosts, 3 without a name: 2 warning, 2 ok" in list(text(summary))


@pytest.mark.parametrize("indent", [None, 4])
def test_answers_of_check_kept_under_the_host_s_name(indent: Optional[int], tmp_path: Path) -> None:
    """As Ansible fetches them, on one line or on many, with its record of a host that gave no answer."""
    nothing = dict.fromkeys(("kind", "path", "release", "build_id", "taken_at"))
    none = {"schema": "drgn-unaccepted/1", "command": "check", "target": nothing, "status": "unknown", "findings": []}
    answers = {
        "guest-a": check_document(findings=[finding("header-version", "pass")]),
        "guest-b": check_document(findings=[finding("header-version", "critical")], status="critical"),
        "guest-c": {**none, "host": "guest-c", "error": {"kind": "no-answer", "reason": "unreachable"}},
    }
    for host, answer in answers.items():
        (tmp_path / f"{host}.json").write_text(json.dumps(answer, indent=indent) + "\n")
    summary = merge([str(tmp_path / f"{host}.json") for host in answers])
    assert (summary["hosts"], summary["answered_hosts"], summary["problem_count"]) == (3, 2, 0)
    assert summary["statuses"] == {"critical": 1, "warning": 0, "ok": 1, "unknown": 0, "failed": 1}
    assert [found["examples"][0]["host"] for found in summary["findings"]] == ["guest-b"]
    (failed,) = summary["failed"]
    assert failed["kind"] == "no-answer" and failed["examples"][0]["host"] == "guest-c"
    # Lines in a file with this name.
    assert merge([write(tmp_path / "lines.json", scanned(1), scanned(2))])["targets"] == 2


def test_what_is_missing_is_said(tmp_path: Path, merged: Merged) -> None:
    whole = [header(0, 4, 2), scanned(1), header(0, 4, 2, done=1), scanned(2)]
    summary = merged(whole, [header(2, 4, 3), scanned(3)])
    assert summary["incomplete"] == [f"{tmp_path}/1.jsonl: 1 of 3 targets", "no file of shard 1, 3 of 4"]
    assert f"INCOMPLETE: {tmp_path}/1.jsonl: 1 of 3 targets" in list(text(summary))
    rest = [[header(n, 4, 0)] for n in (1, 3)]
    assert merged(whole, [header(2, 4, 1), scanned(3)], *rest)["incomplete"] == []
    # A target that is looked at again counts once.
    assert merged([header(0, 1, 2), scanned(1), scanned(1)])["incomplete"] == [f"{tmp_path}/0.jsonl: 1 of 2 targets"]
    # A header without "done", as an older scan wrote it.
    old = {key: value for key, value in header(0, 1, 2).items() if key != "done"}
    assert merged([old, scanned(1), old, scanned(2)])["incomplete"] == []
    # Of more than 20 shards, also because a header is damaged, the rest is counted and not listed.
    for count in (20, 21, (1 << 63) - 1):
        (lack,) = merged([header(0, count + 1, 1), scanned(1)])["incomplete"]
        more = f" and {count - 20} more" if count > 20 else ""
        assert lack == f"no file of shard {', '.join(map(str, range(1, 21)))}{more} of {count + 1}"


@pytest.mark.parametrize("count", [20, 21])
def test_what_is_named_and_what_is_counted(count: int, tmp_path: Path) -> None:
    """Up to 20 examples, hosts and damaged lines; of releases all, since a missing one would be taken for sound."""
    odd = [scanned(n, [("orphan-bits", "warning")], host=f"guest-{n:02}", release=f"{n:02}") for n in range(count)]
    failed = [scanned(100 + n, error="crash") for n in range(count)]
    unknown = [scanned(200 + n, status="unknown", source_reason="no table") for n in range(count)]
    sound = [scanned(300 + n) for n in range(30)]
    (tmp_path / "damaged").write_text("damaged\n" * count)
    summary = merge([write(tmp_path / "a", *odd, *failed, *unknown, *sound), str(tmp_path / "damaged")])
    (found,), (failure,) = summary["findings"], summary["failed"]
    first = [f"guest-{n:02}" for n in range(20)]
    assert [example["host"] for example in found["examples"]] == first
    assert [host["host"] for host in summary["standing_out"]] == first
    assert len(failure["examples"]) == len(summary["unknown"]["examples"]) == 20
    assert found["targets"] == failure["targets"] == summary["unknown"]["targets"] == count
    assert summary["standing_out_hosts"] == summary["problem_count"] == count
    assert found["releases"] == {f"{n:02}": 1 for n in range(count)} and len(summary["releases"]) == count + 1
    assert [problem["where"] for problem in summary["problems"]] == [f"{tmp_path}/damaged:{n}" for n in range(1, 21)]
    lines = list(text(summary))
    assert sum(line.startswith("DAMAGED: ") for line in lines) == count
    assert ("DAMAGED: 1 more line" in lines) == (lines.count("  and 1 more") == 2) == (count > 20)


def damaged() -> Iterator[tuple[bytes, str]]:
    parts: dict[str, list[Any]] = {
        "id": ["x", "00"],
        "findings": [{}, [{"rule": 1}], [finding("a", "pass"), {**finding("a", "pass"), "message": None}]],
        "error": ["crash", {"kind": "crash"}, {"kind": [], "reason": "SIGBUS"}],
        "platform": [7, {"kind": {}}],
        **{"finished_at": ["yesterday"], "status": ["fine"], "skipped": [[[]]], "table": [7, None], "seconds": ["1"]},
        **{"source": [None], "unaccepted_bytes": [True], "target": [{"path": "/x", "release": []}]},
    }
    wrong = [header(4, 4, 1), {**header(0, 4, 1), "shard": [0, 4, 1]}, {**header(0, 4, 1), "done": "1"}]
    wrong += [{**header(0, 4, 1), "targets": float("inf")}, {**header(0, 4, 1), "shard": [float("inf"), 1]}]
    wrong += [{**scanned(7), key: value} for key, values in parts.items() for value in values]
    yield b"[]\n", "no record of scan or check"
    for document in wrong:
        yield json.dumps(document).encode() + b"\n", "not as scan and check write it"
    yield b'{"schema": "drgn-unaccepted/1", "command": "ranges"}\n', "no record of scan or check"
    yield b'{"schema": "drgn-unaccepted/1", "comm\n', "damaged"
    yield b"\xff\xfe\n", "damaged"
    yield b"[" * 100_000 + b"\n", "damaged"
    yield json.dumps(scanned(7)).encode()[:-10], "cut off"
    yield b'"' + b"a" * limits.FLEET_LINE_BYTES + b'"\n', f"more than {limits.FLEET_LINE_BYTES} bytes"


@pytest.mark.parametrize(("line", "reason"), list(damaged()), ids=lambda value: str(value)[:40])
def test_a_damaged_line_is_reported_and_costs_no_other(line: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    last = line.endswith(b"\n")
    after = json.dumps(scanned(2)).encode() + b"\n" if last else b""
    path.write_bytes(json.dumps(scanned(1)).encode() + b"\n" + line + after)
    summary = merge([str(path)])
    assert summary["targets"] == (2 if last else 1)
    assert summary["problems"] == [{"where": f"{path}:2", "reason": reason}]
    assert f"DAMAGED: {path}:2: {reason}" in list(text(summary))


@pytest.mark.long
def test_memory_and_work_grow_with_targets_and_with_nothing_else(tmp_path: Path) -> None:
    """Records of 20 KB, of which each has its own host, rules, release, platform and kind of error.

    1,000 more may cost some hundred bytes each, and as many calls as the 1,000 before.
    """
    peaks, calls = [], []
    for count in (2000, 3000, 4000):
        with (tmp_path / str(count)).open("w") as file:
            for n in range(count):
                more = {"host": f"host-{n}", "release": f"{n}", "platform": f"{n}", "skipped": [f"skipped-{n}"]}
                found = [(f"{n}-{m}-" + "x" * 1000, "warning") for m in range(10)]
                record = scanned(n, found, **more, error=f"kind-{n}" if n % 2 else None)
                file.write(json.dumps(record) + "\n")
        tracemalloc.start()
        merge([file.name])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        number = itertools.count()
        sys.setprofile(lambda *_, number=number: next(number))  # type: ignore[misc]
        merge([file.name])
        sys.setprofile(None)
        calls.append(next(number))
    assert (peaks[2] - peaks[1]) / 1000 < 1000
    assert calls[2] - calls[1] < 1.1 * (calls[1] - calls[0])


def test_the_formats(tmp_path: Path, capsys: Capsys) -> None:
    """Text from a dump is neither a line of its own, nor a formula, nor obeyed by a terminal."""
    results, out = tmp_path / "results", tmp_path / "out"
    results.mkdir()
    first = scanned(1, [("a", "critical"), ("b", "critical"), ("c", "warning")], host="guest-a")
    first["findings"][0]["message"] = "pid 1 (\x1b]0;owned\x07\n)"
    second = scanned(2, error="timeout", release="=HYPERLINK()\n\x1b[2J", platform=None)
    write(results / "0.jsonl", first, second)
    printed = {}
    for name in ("text", "json", "csv"):
        assert main(["merge", str(results), "--format", name]) == 0
        printed[name] = capsys.readouterr().out
        assert all(line.isprintable() for line in printed[name].splitlines())
        assert main(["merge", str(results), "--format", name, "-o", str(out)]) == 0
        assert (out.read_text(), capsys.readouterr().out) == (printed[name], "")
    assert printed["text"].startswith("CRITICAL a: 1 of 1 host that could tell: guest-a (/crash/1/vmcore)")
    assert json.loads(printed["json"])["targets"] == 2
    one, two = csv.DictReader(printed["csv"].splitlines())
    assert (one["host"], one["critical"], one["warning"], one["failure"]) == ("guest-a", "a b", "c", "")
    assert (one["platform"], one["unaccepted_bytes"], one["exact"]) == ("tdx", str(12 << 30), "True")
    assert [two[name] for name in ("host", "failure", "reason", "platform")] == ["", "timeout", "because 2", ""]
    assert two["release"].startswith("'=HYPERLINK()")
    # Without a record the old file stays.
    (tmp_path / "damaged").write_text("words\n")
    assert main(["merge", str(tmp_path / "damaged"), "--format", "csv", "-o", str(out)]) == 3
    assert capsys.readouterr().err == f"drgn-unaccepted: no record in these files: {tmp_path}/damaged:1: damaged\n"
    assert out.read_text() == printed["csv"]
