# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lies in integrations/, checked and run by the tools that it is for: systemd, Kubernetes, sos."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Union

import pytest

from drgn_unaccepted.cli import main
from tests.fleet.tools import FILL, INTEGRATIONS, PLANTED, PROGRAM, SAMPLES, TOP, json_lines, plant, run, tool

UNITS = INTEGRATIONS / "systemd"


def test_systemd_finds_nothing_to_say(tmp_path: Path) -> None:
    """But it does of a unit that is wrong. tests/lab/test_systemd.py runs the units in a guest."""
    analyze = tool("systemd-analyze", "systemd")
    # The command exists once the package is installed.
    hook = str(INTEGRATIONS / "kdump" / "unaccepted-table")
    units = [tmp_path / unit.name for unit in sorted(UNITS.iterdir())]
    for unit in units:
        text = (UNITS / unit.name).read_text()
        text = text.replace("/usr/share/drgn-unaccepted/integrations/kdump/unaccepted-table", hook)
        unit.write_text(re.sub("^ExecStart=(/usr/bin/)?drgn-unaccepted", "ExecStart=/bin/true", text, flags=re.M))
    done = run([analyze, "verify", "--man=no", *units])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    units[0].write_text("[Service]\nType=oneshot\nExecStart=/bin/true\nProtectEverything=yes\n")
    assert "ProtectEverything" in run([analyze, "verify", "--man=no", units[0]]).stderr


@pytest.mark.parametrize(("name", "most"), [("check", 1.5), ("crash", 1.2), ("keep", 1.5), ("crash-kernel", 1.5)])
def test_the_exposure_is_low(name: str, most: float) -> None:
    """On systemd's scale from 0 to 10; what remains are root, /proc/kcore and the BPF read."""
    analyze = tool("systemd-analyze", "systemd")
    done = run([analyze, "security", "--offline=true", "--no-pager", UNITS / f"drgn-unaccepted-{name}.service"])
    if "Unknown" in done.stderr or "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze before 250 has no --offline")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found and float(found[1]) <= most, done.stdout + done.stderr


@pytest.mark.parametrize("fails", [False, True, "hangs"])
@pytest.mark.parametrize(
    ("growing", "done"),
    [
        ("202611260506/dump-incomplete", "dump.202611260506"),
        ("202611260506/dump-incomplete.zst", "dump.202611260506.zst"),
        ("127.0.0.1-2026-11-26-05:06:07/vmcore-incomplete", "vmcore"),
    ],
)
def test_the_hook_of_a_crash_kernel(growing: str, done: str, fails: Union[bool, str], tmp_path: Path) -> None:
    """It puts the table beside the dump that grows now, and neither holds up the dump nor fails it."""
    crash, command = tmp_path / "crash", tmp_path / "bin" / "drgn-unaccepted"
    for path in (crash / "old" / Path(growing).name, command):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    os.utime(crash / "old" / Path(growing).name, (1, 1))
    script = {False: 'echo "$*" >"$4"', True: "echo no table; exit 3", "hangs": "exec sleep 600"}[fails]
    command.write_text(f"#!/bin/sh\n{script}\n")
    # timeout(1) as the hook calls it, with a clock that runs faster.
    faster = tmp_path / "bin" / "timeout"
    faster.write_text('#!/bin/sh\n[ "$1 $2 $3" = "-k 5 25" ] && shift 3 && exec /usr/bin/timeout 2 "$@"\n')
    for program in (command, faster):
        program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "UNACCEPTED_RUN": str(tmp_path)}
    environment["UNACCEPTED_TRIES"] = "600"
    assert run([INTEGRATIONS / "kdump" / "unaccepted-table", crash], env=environment).returncode == 0
    (crash / growing).parent.mkdir()
    (crash / growing).write_text("a dump")
    table = (crash / growing).with_name(f"{done}.unaccepted-table")
    while not fails and not table.exists():
        time.sleep(0.1)
    if not fails:
        assert table.read_text() == f"keep --crash-kernel -o {tmp_path}/vmcore.unaccepted-table\n"
        assert table.stat().st_mode & 0o777 == 0o600
    assert [path for path in crash.rglob("*.unaccepted-table") if path != table] == []


def test_the_dracut_module_brings_what_the_command_imports(tmp_path: Path) -> None:
    """Its functions in a shell whose inst_* functions copy into a tree, as dracut's do; Python then runs it there."""
    module = INTEGRATIONS / "kdump" / "dracut"
    script = f"""
set -eu
PATH={Path(sys.executable).parent}:$PATH moddir={module}
inst_multiple() {{ for file; do case $file in /*) cp --parents "$file" "{tmp_path}" ;; esac; done; }}
inst_hook() {{ echo "hook $*"; }}
. {module}/module-setup.sh
install
"""
    done = run(["bash", "-c", script])
    assert (done.returncode, done.stdout) == (0, f"hook pre-pivot 0900 {module}/hook.sh\n"), done.stderr
    start = "import sys; sys.path[:] = [sys.argv[1] + path for path in sys.path]; sys.argv[1:] = sys.argv[2:]; "
    start += "from drgn_unaccepted.__main__ import main; sys.exit(main())"
    done = run([sys.executable, "-I", "-c", start, tmp_path, "keep", "--crash-kernel", "-o", tmp_path / "table"])
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1), done.stderr
    assert "internal error" not in done.stderr


def test_the_timers() -> None:
    """A path unit sees neither that a dump in a directory grew nor that it is done; a boot waits for its services."""
    crash = (UNITS / "drgn-unaccepted-crash.timer").read_text()
    assert re.search("^OnBootSec=.*^OnUnitActiveSec=.*^WantedBy=timers.target$", crash, re.M | re.S)
    assert "WantedBy" not in (UNITS / "drgn-unaccepted-crash.service").read_text()


def manifest(name: str) -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not here: pip install pyyaml")
    (document,) = yaml.safe_load_all((INTEGRATIONS / "kubernetes" / name).read_text())
    return document


def test_the_manifests_hold_to_kubernetes_schema() -> None:
    """Its published schemas, in PyPI's kubernetes-validate; and a wrong manifest would not."""
    reason = "kubernetes-validate is not here: pip install kubernetes-validate"
    library = pytest.importorskip("kubernetes_validate", reason=reason)
    for name in ("scan.yaml", "merge.yaml"):
        # backoffLimitPerIndex is stable since 1.33; before 1.29 an API server drops it.
        for version in ("1.29", "1.33", "1.37"):
            library.validate(manifest(name), version, strict=True)
        pod = manifest(name)["spec"]["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    wrong = manifest("scan.yaml")
    wrong["spec"].update(completions="8")
    with pytest.raises(library.ValidationError):
        library.validate(wrong, "1.37", strict=True)


@pytest.mark.usefixtures("no_reader")
def test_the_pod_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its command line and environment as a kubelet would have them, for each index; then the merge."""
    spec = manifest("scan.yaml")["spec"]
    (scan,), (merge,) = (manifest(n)["spec"]["template"]["spec"]["containers"] for n in ("scan.yaml", "merge.yaml"))
    environment = {entry["name"]: entry["value"] for entry in scan["env"]}
    assert environment["JOB_COMPLETION_COUNT"] == str(spec["completions"])
    assert scan["command"] == merge["command"] == ["drgn-unaccepted"]

    def kubelet(words: list[str], index: int) -> list[str]:
        # It expands $(NAME); the volumes are these directories.
        words = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in words]
        return [word.replace("/archive", str(SAMPLES)).replace("/results", str(tmp_path)) for word in words]

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for index in range(spec["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        # An index that has no dump has an empty shard, and is no failure.
        assert main(kubelet(scan["args"], index)) == 0
        assert f"scan: shard {index}/{spec['completions']}: " in capsys.readouterr().err
    files = sorted(tmp_path.iterdir())
    assert len(files) == spec["completions"]
    found = [line["target"]["path"] for file in files for line in json_lines(file) if "id" in line]
    assert sorted(found) == sorted(str(path) for path in SAMPLES.glob("*/vmcore"))
    assert main([*kubelet(merge["args"], 0), "--format", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["targets"], summary["incomplete"]) == (len(found), [])


#: sos takes its PATH from its policy, and its plugins from where they are installed.
SOS = """\
import sys
import sos.policies.debian as debian
import sos.report.plugins as plugins

work, ours = sys.argv[1:]
debian.DebianPolicy.PATH = f"{work}/bin:{debian.DebianPolicy.PATH}"
plugins.__path__.append(ours)
from sos import SoS
SoS(["report", "--batch", "--build", "-o", "drgn_unaccepted", "--tmp-dir", f"{work}/out"]).execute()
"""


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="sos runs as root only")
def test_what_sos_collects(tmp_path: Path) -> None:
    python = Path("/usr/bin/python3")
    tool("sos", "sosreport")
    if run([python, "-c", "import sos.policies.debian"]).returncode:
        pytest.skip("sos is not here: apt-get install sosreport")
    plant(FILL, tmp_path / "planted.json")
    (tmp_path / "bin").mkdir()
    (tmp_path / "out").mkdir()
    command = tmp_path / "bin" / "drgn-unaccepted"
    command.write_text(f'#!/bin/sh\ncd {TOP} && exec {" ".join(PROGRAM)} --snapshot {tmp_path}/planted.json "$@"\n')
    command.chmod(0o755)
    done = run([python, "-c", SOS, tmp_path, INTEGRATIONS / "sos"], cwd=tmp_path)
    collected = {path.name: path for path in (tmp_path / "out").rglob("sos_commands/drgn_unaccepted/*")}
    assert {"drgn-unaccepted_summary", "drgn-unaccepted_--format_json_check"} <= set(collected), done.stdout
    assert PLANTED in collected["drgn-unaccepted_check"].read_text()
    assert not list((tmp_path / "out").rglob("vmcore"))
