# SPDX-License-Identifier: LGPL-2.1-or-later
"""``scan`` on real dumps, with neighbours that crash, hang, eat memory or are garbage."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from drgn_unaccepted.fleet.merge import merge
from drgn_unaccepted.fleet.process import Bounds, Process, analyze
from drgn_unaccepted.fleet.progress import Progress
from drgn_unaccepted.fleet.scan import usable_cpus
from drgn_unaccepted.fleet.targets import Shard, find_targets
from tests.fleet.tools import SAMPLES, TOP, json_lines, make_hanging, run

FILL = SAMPLES / "6.12-fill" / "vmcore"
#: Parts of the guests' own accounts (truth.json) that a record repeats.
UNIT = 2 << 20


def scan(*argv: object, environment: Optional[dict[str, str]] = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "drgn_unaccepted", "scan", *argv]
    return run(command, cwd=TOP, env={**os.environ, **(environment or {})})


def records(path: Path) -> list[dict[str, Any]]:
    return [line for line in json_lines(path) if "id" in line]


def truth(sample: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((sample.parent / "truth.json").read_text())
    return loaded


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A directory with a dump that was cut short, garbage and a hang."""
    directory = tmp_path / "bad"
    directory.mkdir()
    (directory / "cut.vmcore").write_bytes(FILL.read_bytes()[:100_000])
    (directory / "garbage.vmcore").write_bytes(bytes(range(256)) * 64)
    # Whoever opens a pipe that nobody writes to waits for ever, as for a file server that died.
    make_hanging(directory / "hang.vmcore")
    return directory


def test_every_target_has_a_record_and_the_bad_ones_cost_one_each(bad: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = scan(SAMPLES, bad, bad / "gone", "-o", out, "--timeout", 5, "--jobs", 3)
    assert done.returncode == 0, done.stderr
    header, *rest = json_lines(out)
    samples = sorted(SAMPLES.glob("*/vmcore"))
    assert (header["shard"], header["targets"]) == ([0, 1], len(samples) + 4)
    by_path = {record["target"]["path"]: record for record in rest}
    assert len(by_path) == len(rest) == len(samples) + 4
    for sample in samples:
        record = by_path[str(sample)]
        assert record["error"] is None
        assert record["target"]["release"].split("-")[0].startswith(sample.parent.name.split("-")[0])
        if record["source"] == "bitmap":
            assert record["unaccepted_bytes"] == len(truth(sample)["unaccepted_units"]) * UNIT
    errors = {Path(path).name: record["error"] for path, record in by_path.items() if record["error"] is not None}
    assert {name: error["kind"] for name, error in errors.items()} == {
        "cut.vmcore": "unreadable",
        "garbage.vmcore": "unreadable",
        "hang.vmcore": "timeout",
        "gone": "unreadable",
    }
    assert "No such file" in errors["gone"]["reason"]
    assert "cut short" in errors["cut.vmcore"]["reason"]
    assert "5 s" in errors["hang.vmcore"]["reason"]
    assert f"{len(samples) + 4} of {len(samples) + 4} targets" in done.stderr and "4 failed" in done.stderr


def test_a_record_is_the_answer_of_check_without_what_passed() -> None:
    argv = [sys.executable, "-m", "drgn_unaccepted", "-c", FILL, "check", "--format", "json"]
    answer = json.loads(run(argv, cwd=TOP).stdout)
    record = analyze(str(FILL))
    assert (record["schema"], record["command"], record["error"]) == ("drgn-unaccepted/1", "scan", None)
    for key in ("status", "table", "source", "exact", "unaccepted_bytes", "covered_bytes", "platform"):
        assert record[key] == answer[key]
    names = {status: [f["rule"] for f in answer["findings"] if f["status"] == status] for status in ("pass", "skip")}
    assert (record["passed"], record["skipped"]) == (names["pass"], names["skip"])
    assert record["findings"] == [f for f in answer["findings"] if f["status"] not in ("pass", "skip")]
    assert len(json.dumps(record)) < 8192


def test_snapshots_are_targets(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    argv = [sys.executable, "-m", "drgn_unaccepted", "-c", FILL, "snapshot", "-o", path]
    assert run(argv, cwd=TOP).returncode == 0
    of_snapshot, of_dump = analyze(str(path)), analyze(str(FILL))
    assert of_snapshot["target"]["kind"] == "snapshot"
    for key in ("status", "findings", "unaccepted_bytes"):
        assert of_snapshot[key] == of_dump[key]


def process_of(path: Path, seconds: int = 60) -> tuple[Process, threading.Thread, list[dict[str, Any]]]:
    (target,) = find_targets([str(path)])
    process = Process(target, Bounds(seconds, 1 << 30))
    found: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: found.append(process.record()))
    thread.start()
    return process, thread, found


@pytest.mark.parametrize("mib", [64, 96, 110])
def test_a_target_that_needs_more_memory_than_it_may_have(mib: int) -> None:
    record = analyze(str(FILL), memory_bytes=mib << 20)
    assert record["error"]["kind"] == "memory", record["error"]
    assert f"more than {mib} MiB" in record["error"]["reason"]


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


#: Modules that a child imports, one of each kind: built in, of the standard library, of others, and this program.
PLANTED = ("resource", "json", "signal", "struct", "drgn", "elftools", "tabulate", "sitecustomize", "usercustomize")


def test_nothing_that_lies_beside_a_dump_is_run(tmp_path: Path) -> None:
    """Files of the names that a child imports, in the working directory and beside the dump, as left by a stranger."""
    ran = tmp_path / "ran"
    place = tmp_path / "dumps"
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


def test_a_crash_is_one_record_that_names_the_signal(tmp_path: Path) -> None:
    make_hanging(tmp_path / "hang")
    _, thread, found = process_of(tmp_path / "hang")
    os.kill(child_at(tmp_path / "hang"), signal.SIGSEGV)
    thread.join()
    (record,) = found
    assert record["error"] == {"kind": "crash", "reason": "the process was ended by SIGSEGV"}
    assert record["status"] == "unknown" and record["target"]["path"] == str(tmp_path / "hang")


def test_the_limits_are_set_before_anything_is_read(tmp_path: Path) -> None:
    make_hanging(tmp_path / "hang")
    _, thread, _ = process_of(tmp_path / "hang", 60)
    pid = child_at(tmp_path / "hang")

    def limit(name: str) -> str:
        (line,) = [x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if x.startswith(name)]
        return line.removeprefix(name).split()[0]

    while limit("Max address space") == "unlimited":
        time.sleep(0.01)
    while limit("Max core file size") != "0":
        time.sleep(0.01)
    assert limit("Max address space") == str(1 << 30)
    assert int(limit("Max cpu time")) < 100
    os.kill(pid, signal.SIGKILL)
    thread.join()


def test_a_second_run_does_only_what_is_left(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert scan(SAMPLES / "6.12-fill", "-o", out).returncode == 0
    before = out.read_bytes()
    done = scan(SAMPLES / "6.12-fill", SAMPLES / "7.3-fill", "-o", out)
    assert done.returncode == 0
    assert out.read_bytes().startswith(before)
    assert [Path(record["target"]["path"]).parent.name for record in records(out)] == ["6.12-fill", "7.3-fill"]
    assert "2 of 2 targets (1 by an earlier run)" in done.stderr


def test_a_rescan_of_dumps_that_changed_is_no_second_archive(tmp_path: Path) -> None:
    """One was cut short while it was copied, all were touched, the last scan was stopped: four targets, once each."""
    archive, out = tmp_path / "archive", tmp_path / "out.jsonl"
    archive.mkdir()
    dumps = [archive / f"{name}.vmcore" for name in "abcd"]
    for dump in dumps:
        dump.write_bytes(FILL.read_bytes()[: 100_000 if dump.name == "a.vmcore" else None])
    assert scan(archive, "-o", out).returncode == 0
    dumps[0].write_bytes(FILL.read_bytes())
    assert scan(archive, "-o", out).returncode == 0
    summary = merge([str(out)])
    assert (summary["targets"], summary["replaced"], summary["incomplete"]) == (4, 1, [])
    assert (summary["statuses"]["failed"], summary["failed"]) == (0, [])
    for dump in dumps:
        os.utime(dump, ns=(0, dump.stat().st_mtime_ns + 1))
    # A scan that was killed in its third target.
    assert scan(archive, "-o", out, "-j", 1).returncode == 0
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:-2]))
    summary = merge([str(out)])
    assert (summary["targets"], summary["incomplete"]) == (4, [f"{out}: 2 of 4 targets"])
    done = scan(archive, "-o", out)
    assert "4 of 4 targets (2 by an earlier run)" in done.stderr
    summary = merge([str(out)])
    assert (summary["targets"], summary["incomplete"], summary["doubles"]) == (4, [], 0)


def test_failures_are_looked_at_again_only_on_request(tmp_path: Path) -> None:
    out, gone = tmp_path / "out.jsonl", tmp_path / "gone"
    for options, count in (((), 1), ((), 1), (("--retry",), 2)):
        assert scan(gone, "-o", out, *options).returncode == 0
        assert len(records(out)) == count


def test_a_line_that_a_kill_cut_off_is_done_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert scan(SAMPLES / "6.12-fill", SAMPLES / "7.3-fill", "-o", out, "-j", 1).returncode == 0
    whole = records(out)
    out.write_bytes(out.read_bytes()[:-100])
    assert scan(SAMPLES / "6.12-fill", SAMPLES / "7.3-fill", "-o", out).returncode == 0
    assert [record["id"] for record in records(out)] == [record["id"] for record in whole]


@pytest.mark.parametrize(
    "content", ["precious\n", '{"schema": "drgn-unaccepted/1", "command": "check"}\n', "[]\n", "1\n"]
)
def test_a_file_that_holds_something_else_is_left_alone(content: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    done = scan(FILL, "-o", out)
    assert (done.returncode, out.read_text()) == (3, content)
    assert "left alone" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_stopped_scan_leaves_no_process_and_goes_on_later(tmp_path: Path) -> None:
    out, hang = tmp_path / "out.jsonl", tmp_path / "hang"
    make_hanging(hang)
    argv = [sys.executable, "-m", "drgn_unaccepted", "scan", FILL, hang, "-o", out, "-j", "2"]
    with subprocess.Popen(list(map(str, argv)), cwd=TOP, stderr=subprocess.PIPE, text=True) as process:
        worker = child_at(hang)
        while not out.exists() or len(records(out)) < 1:
            time.sleep(0.01)
        second = scan(FILL, "-o", out)
        assert second.returncode == 3 and "another scan is writing it" in second.stderr
        # What Slurm sends before it kills.
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped with 1 targets left" in err
    assert not Path(f"/proc/{worker}").exists()
    hang.unlink()
    hang.write_bytes(b"garbage")
    assert scan(FILL, hang, "-o", out).returncode == 0
    assert [record["target"]["path"] for record in records(out)] == [str(FILL), str(hang)]


def test_shards_of_a_job_array_are_everything_once(tmp_path: Path) -> None:
    found = []
    for index in range(3):
        environment = {
            "SLURM_ARRAY_TASK_ID": str(index + 1),
            "SLURM_ARRAY_TASK_MIN": "1",
            "SLURM_ARRAY_TASK_COUNT": "3",
        }
        out = tmp_path / f"{index}.jsonl"
        done = scan(SAMPLES, "-o", out, environment=environment)
        assert done.returncode == 0
        header, *rest = json_lines(out)
        # Two of two targets are no whole archive.
        assert f"\nscan: shard {index}/3: {len(rest)} of {len(rest)} targets" in done.stderr
        assert (header["shard"], header["targets"]) == ([index, 3], len(rest))
        found += [record["target"]["path"] for record in rest]
    assert sorted(found) == sorted(str(path) for path in SAMPLES.glob("*/vmcore"))


def test_records_go_to_standard_output_where_no_file_is_named() -> None:
    done = scan(FILL, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [("id" in line) for line in lines] == [False, True]


def test_records_beside_their_targets(tmp_path: Path) -> None:
    """As after a reboot: the dump of an earlier crash has its answer already, the new one gets one."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vmcore").write_bytes(FILL.read_bytes() if name == "a" else b"garbage")
    assert scan(tmp_path / "a", "--beside", "--quiet").returncode == 0
    answer = tmp_path / "a" / "vmcore.unaccepted.json"
    before = answer.stat()
    done = scan(tmp_path, "--beside", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert answer.stat().st_mtime_ns == before.st_mtime_ns
    assert json.loads(answer.read_text())["error"] is None
    other = json.loads((tmp_path / "b" / "vmcore.unaccepted.json").read_text())
    assert other["error"]["kind"] == "unreadable"
    assert (
        sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
        == ["vmcore", "vmcore"] + ["vmcore.unaccepted.json"] * 2
    )
    (tmp_path / "b" / "vmcore").write_bytes(FILL.read_bytes())
    assert scan(tmp_path, "--beside", "--quiet").returncode == 0
    assert json.loads((tmp_path / "b" / "vmcore.unaccepted.json").read_text())["error"] is None


def test_a_crash_directory_of_debian_with_damaged_dumps(tmp_path: Path) -> None:
    """Each has its record, and a second look makes no records of records."""
    names = ("dump.202611221200", "vmcore.202611221200", "vmcore.gz")
    for name in (*names, "dmesg.202611221200"):
        (tmp_path / name).write_bytes(bytes(4096))
    for _ in range(2):
        done = scan(tmp_path, "--beside")
        assert done.returncode == 0
        passed = f"scan: passed over 1 file, neither dump nor snapshot: {tmp_path}/dmesg.202611221200\n"
        assert done.stderr.startswith(passed)
        answers = sorted(path.name for path in tmp_path.glob("*.unaccepted.json"))
        assert answers == sorted(f"{name}.unaccepted.json" for name in names)
    for name in names:
        record = json.loads((tmp_path / f"{name}.unaccepted.json").read_text())
        assert record["error"]["kind"] == "unreadable"


def test_names_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\n.vmcore"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"garbage")
    done = scan(tmp_path, "-o", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "out.jsonl")
    assert os.fsencode(record["target"]["path"]) == path


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--shard", "4/4", "x"],
        ["--jobs", "0", "x"],
        ["--timeout", "0", "x"],
        ["--memory", "1M", "x"],
        ["--memory", "4", "x"],
        ["--host", "nogroup", "x"],
        ["--host", "(", "x"],
        ["-o", "/nonexistent/out", "x"],
    ],
)
def test_a_usage_error_is_3(argv: list[str]) -> None:
    done = scan(*argv)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_directory_without_targets_is_no_success(tmp_path: Path) -> None:
    done = scan(tmp_path, "-o", tmp_path / "out")
    assert done.returncode == 3 and "no vmcore" in done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def record(status: str, error: Optional[str] = None) -> dict[str, Any]:
    return {"status": status, "error": None if error is None else {"kind": error, "reason": ""}}


def test_a_bar_on_a_terminal() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not here: pip install tqdm")
    stream = Terminal()
    progress = Progress(4, 1, stream=stream)
    progress.add(record("critical"))
    progress.add(record("unknown", "crash"))
    progress.close()
    assert "3/4" in stream.getvalue() and "1 critical, 1 failed" in stream.getvalue()


def test_a_bar_says_which_shard_it_is_of() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not here: pip install tqdm")
    stream = Terminal()
    Progress(4, 1, stream=stream, shard=Shard(1, 3)).close()
    assert "shard 1/3: " in stream.getvalue()


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


def test_a_line_elsewhere() -> None:
    stream = io.StringIO()
    progress = Progress(4, 1, stream=stream)
    progress.add(record("critical"))
    progress.close()
    assert stream.getvalue() == "scan: 2 of 4 targets (1 by an earlier run): 1 critical\n"


def test_the_symbols_of_a_scan_are_for_its_dumps(tmp_path: Path) -> None:
    """A snapshot beside them has its answers already; that the symbols are of no use is said of the dump alone."""
    command = [sys.executable, "-m", "drgn_unaccepted", "-c", FILL, "snapshot", "-o", tmp_path / "a.json"]
    assert run(command, cwd=TOP).returncode == 0
    symbols = tmp_path / "vmlinux"
    symbols.write_text("none")
    snapshot, dump = (analyze(str(path), ("-s", str(symbols))) for path in (tmp_path / "a.json", FILL))
    assert snapshot["error"] is None and snapshot["table"]["state"] == "present"
    assert "vmlinux" in str(dump["error"])
