# SPDX-License-Identifier: LGPL-2.1-or-later
"""``scan`` on real dumps, with neighbours that crash, hang, need too much memory or are garbage."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

import jsonschema
import pytest

from drgn_unaccepted.cli import main
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.fleet import process
from drgn_unaccepted.fleet.merge import Merged
from drgn_unaccepted.fleet.process import Bounds, Process, analyze, usable_cpus
from drgn_unaccepted.fleet.records import Journal
from drgn_unaccepted.fleet.targets import find_targets
from drgn_unaccepted.fleet.text import Progress
from tests.asking import Capsys
from tests.fleet import tools

OTHER = '{"command": "scan", "schema": "drgn-unaccepted/1", "shard": [0, 1], "targets": 1, "done": 0}'  #: Not cut off.


def scan(*argv: object) -> int:
    return main(["scan", *map(str, argv)])


def records(path: Path) -> list[dict[str, Any]]:
    return [line for line in tools.json_lines(path) if "id" in line]


def test_every_target_has_a_record_and_a_bad_one_costs_no_other(tmp_path: Path, capsys: Capsys) -> None:
    bad, out = tmp_path / "bad", tmp_path / "out.jsonl"
    bad.mkdir()
    (bad / "cut.vmcore").write_bytes(tools.FILL.read_bytes()[:100_000])
    (bad / "garbage.vmcore").write_bytes(bytes(range(256)) * 64)
    # A name that is no text.
    strange = os.fsdecode(b"\xff\n.vmcore")
    (bad / strange).write_bytes(b"garbage")
    assert scan(tools.SAMPLES, bad, bad / "gone", "-o", out, "--jobs", 3) == 3
    header, *rest = tools.json_lines(out)
    samples = sorted(tools.SAMPLES.glob("*/vmcore"))
    assert (header["shard"], header["targets"], header["done"]) == ([0, 1], len(samples) + 4, 0)
    by_path = {record["target"]["path"]: record for record in rest}
    assert len(by_path) == len(rest) == len(samples) + 4
    for sample in samples:
        record = by_path[str(sample)]
        truth = json.loads((sample.parent / "truth.json").read_text())
        assert record["error"] is None
        assert record["target"]["release"].split("-")[0].startswith(sample.parent.name.split("-")[0])
        if record["source"] == "bitmap":
            assert record["unaccepted_bytes"] == len(truth["unaccepted_units"]) << 21
    errors = {Path(path).name: record["error"] for path, record in by_path.items() if record["error"] is not None}
    assert {error["kind"] for error in errors.values()} == {"unreadable"}
    assert errors.keys() == {"cut.vmcore", "garbage.vmcore", strange, "gone"}
    assert "No such file" in errors["gone"]["reason"] and "cut short" in errors["cut.vmcore"]["reason"]
    said = capsys.readouterr().err
    assert f"{bad / 'gone'}: No such file or directory" in said
    assert f"{len(samples) + 4} of {len(samples) + 4} targets" in said and "4 failed" in said


def test_a_record_is_the_answer_of_check_without_what_passed(tmp_path: Path, capsys: Capsys) -> None:
    main(["-c", str(tools.FILL), "check", "--format", "json"])
    answer = json.loads(capsys.readouterr().out)
    assert main(["-c", str(tools.FILL), "snapshot", "-o", str(tmp_path / "snapshot.json")]) == 0
    # The symbols of a scan are for its dumps.
    record: Any = analyze(str(tmp_path / "snapshot.json"), ("-s", str(tmp_path / "vmlinux")))
    assert (record["schema"], record["command"], record["error"]) == ("drgn-unaccepted/1", "scan", None)
    assert record["target"]["kind"] == "snapshot"
    for key in answer.keys() - {"command", "target", "findings"}:
        assert record[key] == answer[key]
    names = {status: [f["rule"] for f in answer["findings"] if f["status"] == status] for status in ("pass", "skip")}
    assert (record["passed"], record["skipped"]) == (names["pass"], names["skip"])
    assert record["findings"] == [f for f in answer["findings"] if f["status"] not in names]
    schema = json.loads((tools.TOP / "drgn_unaccepted" / "schema" / "records.json").read_text())
    jsonschema.validate(record, schema)
    assert record.keys() <= schema["definitions"]["ScanRecord"]["properties"].keys()
    (tmp_path / "vmlinux").write_text("none")
    assert "vmlinux" in str(analyze(str(tools.FILL), ("-s", str(tmp_path / "vmlinux")))["error"])


def test_a_hang_is_a_timeout(tmp_path: Path) -> None:
    tools.make_hanging(tmp_path / "hang")
    assert analyze(str(tmp_path / "hang"), seconds=2)["error"] == {"kind": "timeout", "reason": "no answer in 2 s"}


@pytest.mark.parametrize("mib", [64, 110])
def test_a_target_that_needs_more_memory_than_it_may_have(mib: int) -> None:
    error = analyze(str(tools.FILL), memory_bytes=mib << 20)["error"]
    assert error is not None and error["kind"] == "memory", error
    assert f"more than {mib} MiB" in error["reason"]


def test_nothing_that_lies_beside_a_dump_is_run(tmp_path: Path) -> None:
    """A stranger left files with the names that a child imports, in the working directory and beside the dump."""
    ran, place = tmp_path / "ran", tmp_path / "dumps"
    place.mkdir()
    shutil.copy(tools.FILL, place / "vmcore")
    code = f"open({str(ran)!r}, 'a').write(__name__)\n"
    # All that a child imports, what Python, drgn and matplotlib look for, and drgn's plugins.
    listing = "import sys; from drgn_unaccepted.worker import main; main(sys.argv[1:]); print(*sys.modules)"
    argv = [sys.executable, "-c", listing, "4294967296", "600", tools.FILL, "-s", "vmlinux"]
    imported = {name.partition(".")[0] for name in tools.run(argv, cwd=tools.TOP).stdout.split()}
    assert {"resource", "json", "signal", "drgn", "drgn_unaccepted"} < imported
    for name in (imported | {"sitecustomize", "usercustomize", "elftools", "tabulate"}) - {"drgn_unaccepted"}:
        (place / f"{name}.py").write_text(code)
    metadata = place / "planted-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[drgn.plugins]\nplanted = drgn_plugins\n")
    (place / "pyvenv.cfg").write_text(f"home = {place}\n")
    for name in ("drgn_unaccepted", "drgn_plugins"):
        (place / name).mkdir()
        for file in ("__init__.py", "__main__.py", "worker.py"):
            (place / name / file).write_text(code)
    program = Path(sys.executable).with_name("drgn-unaccepted")
    done = tools.run([program, "scan", "--quiet", "vmcore", "-o", "out"], cwd=place)
    assert done.returncode == 0, done.stderr
    (record,) = records(place / "out")
    assert record["error"] is None and record["target"]["release"].startswith("6.12.")
    assert not ran.exists(), ran.read_text()


def test_a_child_does_not_say_which_target_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile bytes may have taken over the process that reads them."""
    lie = tools.check_document(
        host="victim", id="00" * 16, error=None, passed=[], finished_at="9999-01-01T00:00:00+00:00"
    )
    lie["target"]["path"] = "/victim"
    monkeypatch.setattr(process, "_START", f"print({json.dumps(lie)!r})")
    record = analyze(str(tools.FILL))
    (target,) = find_targets([str(tools.FILL)])
    assert (record["host"], record["id"], record["target"]["path"]) == (None, target.id, str(tools.FILL))
    assert str(record["finished_at"]) < "9999"


def test_records_beside_dumps_are_believed_only_of_who_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    """A stranger's answer is replaced; through a stranger's link nothing is read or written; root's own are."""
    dumps, away = tmp_path / "dumps", tmp_path / "away"
    for directory in (dumps, away):
        directory.mkdir()
    for name in ("planted", "linked", "mine"):
        shutil.copy(tools.FILL, dumps / f"{name}.vmcore")
    answers = {name: dumps / f"{name}.vmcore.unaccepted.json" for name in ("planted", "linked", "mine")}
    assert scan(dumps, "--beside", "--quiet") == 0
    lies = {name: {**json.loads(path.read_text()), "status": "ok", "findings": []} for name, path in answers.items()}
    for name, lie in lies.items():
        answers[name].write_text(json.dumps(lie))
    (away / "lie").write_text(json.dumps(lies["linked"]))
    answers["linked"].unlink()
    answers["linked"].symlink_to(away / "lie")
    tools.give_away(answers["planted"], monkeypatch)
    if os.geteuid() == 0:
        assert scan(dumps, "--beside", "--quiet") == 0
        assert json.loads(answers["planted"].read_text())["findings"] and not answers["linked"].is_symlink()
        assert json.loads(answers["mine"].read_text()) == lies["mine"]
    assert json.loads((away / "lie").read_text()) == lies["linked"]
    # The directory of a dump became a link.
    (away / "mine.vmcore").write_bytes(b"garbage")
    link = tmp_path / "link"
    link.symlink_to(away)
    tools.give_away(link, monkeypatch)
    assert scan(link / "mine.vmcore", "--beside", "--quiet") == 3
    assert "link is a link of user" in capsys.readouterr().err
    assert sorted(path.name for path in away.iterdir()) == ["lie", "mine.vmcore"]


def child_at(path: Path) -> int:
    """The worker that has a path among its arguments."""
    while True:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(b"unaccepted.worker" in word for word in words) and os.fsencode(path) in words:
                return int(entry.name)
        time.sleep(0.01)


def test_limits_come_first_and_a_crash_is_one_record_that_names_the_signal(tmp_path: Path) -> None:
    tools.make_hanging(tmp_path / "hang")
    (target,) = find_targets([str(tmp_path / "hang")])
    hanging = Process(target, Bounds(600, 1 << 30))
    pid = child_at(tmp_path / "hang")

    def limit(name: str) -> str:
        (line,) = [x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if x.startswith(name)]
        return line.removeprefix(name).split()[0]

    while limit("Max address space") == "unlimited" or limit("Max core file size") != "0":
        time.sleep(0.01)
    assert limit("Max address space") == str(1 << 30)
    assert int(limit("Max cpu time")) < 700
    assert hanging.poll() is None
    os.kill(pid, signal.SIGSEGV)
    while not (record := hanging.poll()):
        time.sleep(0.01)
    assert record["error"] == {"kind": "crash", "reason": "the process was ended by SIGSEGV"}
    assert record["status"] == "unknown" and record["target"]["path"] == str(tmp_path / "hang")


@pytest.mark.parametrize("said", ["[" * 100_000, '{"schema": "drgn-unaccepted/1", "command": "check"}', "null", ""])
def test_a_child_that_says_nonsense_costs_one_record(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START", f"print({said!r})")
    error = analyze(str(tools.FILL))["error"]
    assert error == {"kind": "defect", "reason": "exit status 0: without a word"}


@pytest.mark.usefixtures("no_reader")
def test_a_second_run_does_what_is_left_and_repeats_only_on_request(tmp_path: Path, capsys: Capsys) -> None:
    """Also what a killed scan left: a line that is cut off. A dump that was written anew is read anew."""
    archive, out = tmp_path / "archive", tmp_path / "out.jsonl"
    archive.mkdir()
    dumps = [archive / f"{name}.vmcore" for name in "abcd"]
    for dump in dumps:
        dump.write_bytes(b"garbage")

    def state() -> tuple[int, int, list[str]]:
        summary = Merged({str(out): True}).summary()
        assert summary["doubles"] == 0
        return summary["targets"], summary["replaced"], summary["incomplete"]

    assert scan(dumps[0], "-o", out) == 0
    before = out.read_bytes()
    assert scan(archive, "-o", out) == 0
    assert out.read_bytes().startswith(before) and len(records(out)) == 4
    assert "4 of 4 targets (1 by an earlier run)" in capsys.readouterr().err
    out.write_bytes(out.read_bytes()[:-100] + bytes(50))
    assert scan(archive, "-o", out) == 0
    assert state() == (4, 0, [])
    dumps[0].write_bytes(b"garbage, whole")
    assert scan(archive, "-o", out) == 0
    assert state() == (4, 1, [])
    # All were touched, and the scan of them was killed in its third.
    for dump in dumps:
        os.utime(dump, ns=(0, dump.stat().st_mtime_ns + 1))
    assert scan(archive, "-o", out, "-j", 1) == 0
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:-2]))
    assert state() == (4, 3, [f"{out}: 2 of 4 targets"])
    assert scan(archive, "-o", out) == 0
    assert "4 of 4 targets (2 by an earlier run)" in capsys.readouterr().err
    assert state() == (4, 5, [])
    there = len(records(out))
    assert scan(archive, "-o", out, "--retry", "--quiet") == 0
    assert len(records(out)) == there + 4
    assert scan(archive, "--quiet") == 0
    said = capsys.readouterr()
    assert said.err == "" and ["id" in json.loads(line) for line in said.out.splitlines()] == [False, *[True] * 4]


@pytest.mark.parametrize("content", ["precious", '{"schema": "drgn-unaccepted/1", "command": "check"}\n', "1\n", OTHER])
def test_a_file_that_holds_something_else_is_left_alone(content: str, tmp_path: Path, capsys: Capsys) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    assert (scan(tools.FILL, "-o", out), out.read_text()) == (3, content)
    said = capsys.readouterr().err
    assert "left alone" in said and len(said.splitlines()) == 1


def test_a_file_that_another_scan_deletes_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was opened before the other one deleted it without a line, and locked after."""
    monkeypatch.setattr("fcntl.flock", lambda *_: (tmp_path / "out").unlink())
    with pytest.raises(CommandError, match="another scan is writing it"):
        Journal(str(tmp_path / "out"))


def test_a_stopped_scan_leaves_no_process_and_continues_later(tmp_path: Path, capsys: Capsys) -> None:
    out, garbage, hang = tmp_path / "out.jsonl", tmp_path / "garbage", tmp_path / "hang"
    garbage.write_bytes(b"garbage")
    tools.make_hanging(hang)
    argv = [*tools.PROGRAM, "scan", garbage, hang, "-o", out, "-j", "2"]
    with subprocess.Popen(list(map(str, argv)), cwd=tools.TOP, stderr=subprocess.PIPE, text=True) as scanning:
        worker = child_at(hang)
        while not out.exists() or len(out.read_bytes().splitlines()) < 2:
            time.sleep(0.01)
        assert scan(garbage, "-o", out) == 3
        assert "another scan is writing it" in capsys.readouterr().err
        # What Slurm sends before it kills.
        scanning.send_signal(signal.SIGTERM)
        _, err = scanning.communicate(timeout=600)
    assert scanning.returncode == 130
    assert "stopped with 1 target left; the same command continues" in err
    assert not Path(f"/proc/{worker}").exists()
    hang.unlink()
    hang.write_bytes(b"garbage")
    assert scan(garbage, hang, "-o", out) == 0
    assert [record["target"]["path"] for record in records(out)] == [str(garbage), str(hang)]


def test_a_crash_directory_with_records_beside_the_dumps(tmp_path: Path, capsys: Capsys) -> None:
    """The service's command: one record for each dump, damaged or not, anew only if the dump was written anew."""
    service = tools.INTEGRATIONS / "systemd" / "drgn-unaccepted-crash.service"
    (line,) = re.findall("^ExecStart=(.*)$", service.read_text(), re.M)
    command = line.replace("/var/crash", str(tmp_path)).replace("--quiet", "").split()[1:]
    # Without dumps it succeeds: in general nothing has crashed.
    assert main(command) == 0
    names = ("dump.202611221200", "vmcore.202611221200", "vmcore.gz")
    for name in (*names, "dmesg.202611221200"):
        (tmp_path / name).write_bytes(bytes(4096))
    answer = tmp_path / "dump.202611221200.unaccepted.json"
    times = []
    for _ in range(2):
        assert main(command) == 0
        said = capsys.readouterr().err
        assert said.startswith(f"scan: skipped 1 file that is neither dump nor snapshot: {tmp_path}/dmesg.202611221200")
        answers = sorted(path.name for path in tmp_path.glob("*.unaccepted.json"))
        assert answers == sorted(f"{name}.unaccepted.json" for name in names)
        assert json.loads(answer.read_text())["error"]["kind"] == "unreadable"
        times.append(answer.stat().st_mtime_ns)
    assert times[0] == times[1]
    # A dump that was still being copied.
    for size, error in ((100_000, "unreadable"), (None, None)):
        (tmp_path / names[0]).write_bytes(tools.FILL.read_bytes()[:size])
        assert main(command) == 0
        record = json.loads(answer.read_text())
        assert (record["error"] and record["error"]["kind"]) == error
    assert record["unaccepted_bytes"] == 288 << 20


USAGE = ["", *(f"--shard={shard} x" for shard in ("", "1", "4/4", "-1/4", "1/0", "a/b", "1/4/5", "0x1/4"))]
USAGE += ["--jobs 0 x", "--timeout 0 x", "--memory 1M x", "--memory 4 x", "--host nogroup x"]


@pytest.mark.parametrize("argv", [*USAGE, "--host ( x", "-o /nonexistent/out x", f"{Path(__file__).parent}"])
def test_a_usage_error_is_3(argv: str, capsys: Capsys) -> None:
    """A directory without targets is no success."""
    status, said = scan(*argv.split()), capsys.readouterr()
    assert (status, said.out, len(said.err.splitlines())) == (3, "", 1)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_on_a_terminal_and_elsewhere(terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    """Once two seconds have gone by: renewed in place on a terminal, elsewhere a line each 30 s."""
    now = iter((0.0, 1.9, 2.1, 2.2, 31.0, 32.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    shown = Progress(False)
    for line in ("a", "four", "c", "d", "e"):
        shown.show(line)
    shown.end()
    assert capsys.readouterr().err == ("\r\x1b[Kfour\r\x1b[Kd\r\x1b[Ke\r\x1b[K" if terminal else "d\n")


@pytest.mark.parametrize(
    ("cgroup", "limits", "most"),
    [
        ("0::/\n", {"": "150000 100000"}, 2),
        ("0::/\n", {"": "max 100000"}, None),
        # The quota of a slice above, on a system without namespaces; version 1 has other lines beside.
        ("1:name=systemd:/a\n0::/a/b\n", {"a": "100000 100000", "a/b": "max 100000"}, 1),
        ("0::/../../a\n", {"": "20000 100000"}, 1),
        ("", {"": "nonsense"}, None),
    ],
)
def test_jobs_are_no_more_than_the_cpus_of_a_container(
    cgroup: str, limits: dict[str, str], most: Optional[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(128)))
    (tmp_path / "proc").write_text(cgroup)
    top = tmp_path / "cgroup"
    for directory, text in limits.items():
        (top / directory).mkdir(parents=True, exist_ok=True)
        (top / directory / "cpu.max").write_text(f"{text}\n")
    assert usable_cpus(tmp_path / "proc", top) == (most or 128)
