# SPDX-License-Identifier: LGPL-2.1-or-later
"""``scan`` on real dumps, with neighbours that crash, hang, need too much memory or are garbage."""

from __future__ import annotations

import io
import json
import os
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
from drgn_unaccepted.fleet.documents import ScanRecord
from drgn_unaccepted.fleet.merge import merge
from drgn_unaccepted.fleet.process import Bounds, Process, analyze
from drgn_unaccepted.fleet.progress import Progress
from drgn_unaccepted.fleet.scan import usable_cpus
from drgn_unaccepted.fleet.targets import Shard, find_targets
from tests.fleet.tools import FILL, PROGRAM, SAMPLES, TOP, json_lines, make_hanging, run

Capsys = pytest.CaptureFixture[str]


def scan(*argv: object) -> int:
    return main(["scan", *map(str, argv)])


def records(path: Path) -> list[dict[str, Any]]:
    return [line for line in json_lines(path) if "id" in line]


def test_every_target_has_a_record_and_a_bad_one_costs_no_other(tmp_path: Path, capsys: Capsys) -> None:
    bad, out = tmp_path / "bad", tmp_path / "out.jsonl"
    bad.mkdir()
    (bad / "cut.vmcore").write_bytes(FILL.read_bytes()[:100_000])
    (bad / "garbage.vmcore").write_bytes(bytes(range(256)) * 64)
    # A name that is no text.
    strange = os.fsdecode(b"\xff\n.vmcore")
    (bad / strange).write_bytes(b"garbage")
    assert scan(SAMPLES, bad, bad / "gone", "-o", out, "--jobs", 3) == 0
    header, *rest = json_lines(out)
    samples = sorted(SAMPLES.glob("*/vmcore"))
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
    assert f"{len(samples) + 4} of {len(samples) + 4} targets" in said and "4 failed" in said


def test_a_record_is_the_answer_of_check_without_what_passed(tmp_path: Path, capsys: Capsys) -> None:
    main(["-c", str(FILL), "check", "--format", "json"])
    answer = json.loads(capsys.readouterr().out)
    record: Any = analyze(str(FILL))
    assert (record["schema"], record["command"], record["error"]) == ("drgn-unaccepted/1", "scan", None)
    for key in answer.keys() - {"command", "target", "findings"}:
        assert record[key] == answer[key]
    names = {status: [f["rule"] for f in answer["findings"] if f["status"] == status] for status in ("pass", "skip")}
    assert (record["passed"], record["skipped"]) == (names["pass"], names["skip"])
    jsonschema.validate(record, json.loads((TOP / "drgn_unaccepted" / "schema" / "records.json").read_text()))
    assert record.keys() <= ScanRecord.__annotations__.keys()
    assert record["findings"] == [f for f in answer["findings"] if f["status"] not in ("pass", "skip")]
    # A snapshot is a target, too. The symbols of a scan are for its dumps.
    assert main(["-c", str(FILL), "snapshot", "-o", str(tmp_path / "snapshot.json")]) == 0
    of_snapshot: Any = analyze(str(tmp_path / "snapshot.json"), ("-s", str(tmp_path / "vmlinux")))
    assert of_snapshot["target"]["kind"] == "snapshot"
    assert all(of_snapshot[key] == record[key] for key in ("status", "findings", "unaccepted_bytes"))
    (tmp_path / "vmlinux").write_text("none")
    assert "vmlinux" in str(analyze(str(FILL), ("-s", str(tmp_path / "vmlinux")))["error"])


def test_a_hang_is_a_timeout(tmp_path: Path) -> None:
    make_hanging(tmp_path / "hang")
    assert analyze(str(tmp_path / "hang"), seconds=2)["error"] == {"kind": "timeout", "reason": "no answer in 2 s"}


@pytest.mark.parametrize("mib", [64, 110])
def test_a_target_that_needs_more_memory_than_it_may_have(mib: int) -> None:
    error = analyze(str(FILL), memory_bytes=mib << 20)["error"]
    assert error is not None and error["kind"] == "memory", error
    assert f"more than {mib} MiB" in error["reason"]


#: Modules that a child imports, one of each kind: built in, of the standard library, of others, and this program.
PLANTED = ("resource", "json", "signal", "struct", "drgn", "elftools", "tabulate", "sitecustomize", "usercustomize")


def test_nothing_that_lies_beside_a_dump_is_run(tmp_path: Path) -> None:
    """A stranger left files with the names that a child imports, in the working directory and beside the dump."""
    ran, place = tmp_path / "ran", tmp_path / "dumps"
    place.mkdir()
    shutil.copy(FILL, place / "vmcore")
    code = f"open({str(ran)!r}, 'a').write(__name__)\n"
    for name in PLANTED:
        (place / f"{name}.py").write_text(code)
    for name in ("drgn_unaccepted", "drgn_plugins"):
        (place / name / "fleet").mkdir(parents=True)
        for file in ("__init__.py", "__main__.py", "fleet/__init__.py", "fleet/worker.py"):
            (place / name / file).write_text(code)
    program = Path(sys.executable).with_name("drgn-unaccepted")
    done = run([program, "scan", "--quiet", "vmcore", "-o", "out"], cwd=place)
    assert done.returncode == 0, done.stderr
    (record,) = records(place / "out")
    assert record["error"] is None and record["target"]["release"].startswith("6.12.")
    assert not ran.exists(), ran.read_text()


def child_at(path: Path) -> int:
    """The worker that has a path among its arguments."""
    while True:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(b"fleet.worker" in word for word in words) and os.fsencode(path) in words:
                return int(entry.name)
        time.sleep(0.01)


def test_limits_come_first_and_a_crash_is_one_record_that_names_the_signal(tmp_path: Path) -> None:
    make_hanging(tmp_path / "hang")
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
    hanging.wait(600)
    record = hanging.poll()
    assert record is not None and record["error"] == {
        "kind": "crash",
        "reason": "the process was ended by SIGSEGV",
    }
    assert record["status"] == "unknown" and record["target"]["path"] == str(tmp_path / "hang")


@pytest.mark.usefixtures("no_reader")
def test_a_second_run_does_what_is_left_and_repeats_only_on_request(tmp_path: Path, capsys: Capsys) -> None:
    """Also what a killed scan left: a line that is cut off."""
    out, first, second = tmp_path / "out.jsonl", tmp_path / "a.vmcore", tmp_path / "b.vmcore"
    first.write_bytes(b"garbage")
    second.write_bytes(b"garbage, too")
    assert scan(first, "-o", out) == 0
    before = out.read_bytes()
    assert scan(first, second, "-o", out) == 0
    assert out.read_bytes().startswith(before)
    assert [Path(record["target"]["path"]).name for record in records(out)] == ["a.vmcore", "b.vmcore"]
    assert "2 of 2 targets (1 by an earlier run)" in capsys.readouterr().err
    out.write_bytes(out.read_bytes()[:-100])
    assert scan(first, second, "-o", out) == 0
    assert [Path(record["target"]["path"]).name for record in records(out)] == ["a.vmcore", "b.vmcore"]
    assert scan(first, second, "-o", out, "--retry") == 0
    assert len(records(out)) == 4


@pytest.mark.usefixtures("no_reader")
def test_a_rescan_of_dumps_that_changed_is_no_second_archive(tmp_path: Path, capsys: Capsys) -> None:
    """One dump was cut short while it was copied, all were touched, and the last scan was killed in its third."""
    archive, out = tmp_path / "archive", tmp_path / "out.jsonl"
    archive.mkdir()
    dumps = [archive / f"{name}.vmcore" for name in "abcd"]
    for dump in dumps:
        dump.write_bytes(b"garbage")
    assert scan(archive, "-o", out) == 0
    dumps[0].write_bytes(b"garbage, whole")
    assert scan(archive, "-o", out) == 0
    summary = merge([str(out)])
    assert (summary["targets"], summary["replaced"], summary["incomplete"]) == (4, 1, [])
    for dump in dumps:
        os.utime(dump, ns=(0, dump.stat().st_mtime_ns + 1))
    assert scan(archive, "-o", out, "-j", 1) == 0
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:-2]))
    summary = merge([str(out)])
    assert (summary["targets"], summary["incomplete"]) == (4, [f"{out}: 2 of 4 targets"])
    assert scan(archive, "-o", out) == 0
    assert "4 of 4 targets (2 by an earlier run)" in capsys.readouterr().err
    summary = merge([str(out)])
    assert (summary["targets"], summary["incomplete"], summary["doubles"]) == (4, [], 0)


@pytest.mark.parametrize("content", ["precious\n", '{"schema": "drgn-unaccepted/1", "command": "check"}\n', "1\n"])
def test_a_file_that_holds_something_else_is_left_alone(content: str, tmp_path: Path, capsys: Capsys) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    assert (scan(FILL, "-o", out), out.read_text()) == (3, content)
    said = capsys.readouterr().err
    assert "left alone" in said and len(said.splitlines()) == 1


def test_a_stopped_scan_leaves_no_process_and_continues_later(tmp_path: Path, capsys: Capsys) -> None:
    out, garbage, hang = tmp_path / "out.jsonl", tmp_path / "garbage", tmp_path / "hang"
    garbage.write_bytes(b"garbage")
    make_hanging(hang)
    argv = [*PROGRAM, "scan", garbage, hang, "-o", out, "-j", "2"]
    with subprocess.Popen(list(map(str, argv)), cwd=TOP, stderr=subprocess.PIPE, text=True) as scanning:
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


@pytest.mark.usefixtures("no_reader")
def test_shards_of_a_job_array_are_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    dumps = [tmp_path / f"{number}.vmcore" for number in range(6)]
    for dump in dumps:
        dump.write_bytes(b"garbage")
    found = []
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    for index in range(2):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index + 1))
        out = tmp_path / f"{index}.jsonl"
        assert scan(tmp_path, "-o", out) == 0
        header, *rest = json_lines(out)
        assert f"\nscan: shard {index}/2: {len(rest)} of {len(rest)} targets" in f"\n{capsys.readouterr().err}"
        assert (header["shard"], header["targets"]) == ([index, 2], len(rest))
        found += [record["target"]["path"] for record in rest]
    assert sorted(found) == sorted(map(str, dumps))


@pytest.mark.usefixtures("no_reader")
def test_records_go_to_standard_output_where_no_file_is_named(tmp_path: Path, capsys: Capsys) -> None:
    assert scan(tmp_path / "gone", "--quiet") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert [("id" in json.loads(line)) for line in said.out.splitlines()] == [False, True]


def test_a_crash_directory_with_records_beside_the_dumps(tmp_path: Path, capsys: Capsys) -> None:
    """Each dump has its record, damaged or not; one that has a record is not read again unless it was written anew."""
    names = ("dump.202611221200", "vmcore.202611221200", "vmcore.gz")
    for name in (*names, "dmesg.202611221200"):
        (tmp_path / name).write_bytes(bytes(4096))
    answer = tmp_path / "dump.202611221200.unaccepted.json"
    times = []
    for _ in range(2):
        assert scan(tmp_path, "--beside") == 0
        said = capsys.readouterr().err
        assert said.startswith(f"scan: skipped 1 file that is neither dump nor snapshot: {tmp_path}/dmesg.202611221200")
        answers = sorted(path.name for path in tmp_path.glob("*.unaccepted.json"))
        assert answers == sorted(f"{name}.unaccepted.json" for name in names)
        assert json.loads(answer.read_text())["error"]["kind"] == "unreadable"
        times.append(answer.stat().st_mtime_ns)
    assert times[0] == times[1]
    (tmp_path / names[0]).write_bytes(FILL.read_bytes())
    assert scan(tmp_path, "--beside", "--quiet") == 0
    assert json.loads(answer.read_text())["error"] is None


USAGE = ["", "--shard 4/4 x", "--jobs 0 x", "--timeout 0 x", "--memory 1M x", "--memory 4 x", "--host nogroup x"]


@pytest.mark.parametrize("argv", [*USAGE, "--host ( x", "-o /nonexistent/out x"])
def test_a_usage_error_is_3(argv: str, capsys: Capsys) -> None:
    try:
        status: Any = scan(*argv.split())
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    assert (status, said.out, len(said.err.splitlines())) == (3, "", 1)


def test_a_directory_without_targets_is_no_success(tmp_path: Path, capsys: Capsys) -> None:
    assert scan(tmp_path, "-o", tmp_path / "out") == 3
    assert "no vmcore" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[io.StringIO, Terminal])
def progress(request: pytest.FixtureRequest) -> str:
    if request.param is Terminal:
        pytest.importorskip("tqdm", reason="tqdm is not here: pip install tqdm")
    stream = request.param()
    done: list[Any] = [{"status": "critical", "error": None}, {"status": "unknown", "error": {"kind": "crash"}}]
    with Progress(4, 1, Shard(1, 3), False, stream) as progress:
        for record in done:
            progress.add(record)
    return str(stream.getvalue())


def test_progress_on_a_terminal_and_elsewhere(progress: str) -> None:
    last = "scan: shard 1/3: 3 of 4 targets (1 by an earlier run): 1 critical, 1 failed\n"
    assert progress.endswith(last)
    # A bar.
    assert progress == last or ("shard 1/3: " in progress and "3/4" in progress)


@pytest.mark.parametrize(
    ("cgroup", "limits", "most"),
    [
        ("0::/\n", {"": "150000 100000"}, 2),
        ("0::/\n", {"": "max 100000"}, None),
        # The quota of a slice above, on a system without namespaces; version 1 has other lines beside.
        ("1:name=systemd:/a\n0::/a/b\n", {"a": "100000 100000", "a/b": "max 100000"}, 1),
        ("0::/../../a\n", {"": "20000 100000"}, 1),
        ("0::/gone\n", {}, None),
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
