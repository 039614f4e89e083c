# SPDX-License-Identifier: LGPL-2.1-or-later
"""The units under a booted systemd in a lab guest with unaccepted memory: installed from the Debian package, started as
docs/fleet.md says, then the guest crashes, and what the flight recorder kept is used with its kdump.

One guest, five to ten minutes; tests/lab/in_guest/units.py is what runs in it.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from drgn_unaccepted.cli import main
from tests.asking import SAMPLES, UNIT, truth
from tests.fleet.tools import ansible_playbook, make_packages, run
from tests.lab.asking import in_guest, needs_guests
from tests.lab.captures import logged_table, noted_accepts, read_bitmap, read_physical, set_units, touched_units, units

pytestmark = needs_guests("6.12")

PYTHON = "/usr/bin/python3"
#: A guest with systemd as PID 1; a directory follows whose files lie over this machine's file system.
BOOTED = ("fresh", "--booted", "--timeout", 1800, "--layer")
CAPABILITIES = {"CAP_SYS_RAWIO": 17, "CAP_PERFMON": 38, "CAP_BPF": 39}

if not Path("/lib/systemd/systemd").exists():
    pytest.skip("no systemd on this machine's file system: apt-get install systemd", allow_module_level=True)
for module in ("build", "shtab", "argparse_manpage", "wheel"):
    pytest.importorskip(module, reason=f"{module}, which makes the Debian package, is not here: scripts/venv docs")
VERSION = run([PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).stdout.strip()
if f"{sys.version_info[0]}.{sys.version_info[1]}" != VERSION:
    pytest.skip(f"{PYTHON} is {VERSION or 'absent'}: drgn of this Python is not for it", allow_module_level=True)


class Booted(NamedTuple):
    """What the guest left."""

    share: Path
    #: units.json
    found: Any
    #: Physical address of the table, as the kernel logged it.
    address: int

    def kept(self, name: str) -> Path:
        (place,) = (path for path in (self.share / f"kept.{name}").iterdir() if path.is_dir())
        return place

    def kept_table(self, name: str) -> bytes:
        """The flight recorder's file of the table's bytes."""
        return (self.kept(name) / f"table-{self.address:#x}.bin").read_bytes()

    def accepted(self, name: str) -> set[int]:
        """Numbers (address / 2 MiB) of units that the guest had noted as accepted by then."""
        return touched_units(noted_accepts((self.share / f"accepted.{name}").read_text()))


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Booted:
    work = tmp_path_factory.mktemp("systemd")
    layer, share = work / "layer", work / "share"
    install(work / "dist", layer)
    arguments = [SAMPLES / "6.12-fill" / "vmcore"]
    in_guest(share, "units", *BOOTED, layer, "--crash", arguments=arguments, python=PYTHON)
    address = logged_table((share / "serial.log").read_text(errors="replace"))
    return Booted(share, json.loads((share / "units.json").read_text()), address)


def install(dist: Path, layer: Path) -> None:
    """The Debian package as dpkg unpacks it, the bytecode that its script makes, and drgn for the system's Python."""
    (package,) = make_packages(dist).glob("*.deb")
    for argv in (["dpkg-deb", "-x", package, layer], [PYTHON, "-m", "compileall", "-q", layer / "usr/lib"]):
        assert run(argv).returncode == 0
    layer.chmod(0o755)
    import drgn

    place = layer / f"usr/local/lib/python{VERSION}/dist-packages"
    place.mkdir(parents=True)
    for path in Path(drgn.__file__).parent.parent.glob("*drgn*"):
        if path.name.startswith(("drgn_unaccepted", "__editable__")):
            continue
        (shutil.copytree if path.is_dir() else shutil.copy)(path, place / path.name)


def journal(told: Any) -> str:
    return "\n".join(told["said"])


def succeeded(told: Any) -> bool:
    return bool((told["ActiveState"], told["Result"]) == ("inactive", "success"))


@pytest.mark.parametrize("unit", ["keep", "check"])
def test_a_unit_may_do_no_more_than_it_needs(guest: Booted, unit: str) -> None:
    probe = guest.found[f"{unit} probe"]
    fields = dict(re.findall(r"^(\w+):\s+(\S+)$", probe, re.M))
    assert int(fields["CapEff"], 16) == sum(1 << bit for bit in CAPABILITIES.values())
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert re.findall(r"^written: (\S+)$", probe, re.M) == ["/tmp"], "which is the unit's own"


# The flight recorder


def test_the_flight_recorder_runs_again_after_a_minute(guest: Booted) -> None:
    for name in ("keep", "keep again", "keep probed", "keep last"):
        told = guest.found[name]
        assert succeeded(told), told
        assert "for a crash dump of this boot: --table /var/lib/drgn-unaccepted/" in journal(told)
    assert guest.found["keep apart"] > 55


@pytest.mark.parametrize("name", ["first", "again", "last"])
def test_what_it_kept_was_read_from_the_table_by_bpf(guest: Booted, name: str) -> None:
    kept = json.loads((guest.kept(name) / "snapshot.json").read_text())["snapshot"]
    assert kept["target"]["kind"] == "live" and kept["target"]["boot_id"] == guest.found["boot_id"]
    table = kept["table"]
    assert (table["state"], table["read_through"], table["address"]) == ("present", "bpf", guest.address)
    assert guest.kept(name).name == guest.found["boot_id"]


def test_what_it_kept_is_what_the_guest_had(guest: Booted) -> None:
    """By the guest's own record of accepts and by its memory, read while it was stopped between two runs."""
    base, unit, bitmap = read_bitmap(guest.share / "dump.first.elf", guest.address)
    assert unit == UNIT
    header = read_physical(guest.share / "dump.first.elf", guest.address, 24)
    assert guest.kept_table("first")[:24] == header
    now = set_units(base, bitmap)
    kept = {name: set_units(base, guest.kept_table(name)[24:]) for name in ("first", "again")}
    assert kept["again"] <= now <= kept["first"], "bits only clear"
    for name, earlier, later in (("first", "before", "first"), ("again", "first", "again")):
        assert kept[name] and not kept[name] & guest.accepted(earlier)
        assert now - guest.accepted(later) <= kept[name]


def test_what_it_kept_is_of_use_with_the_kdump_of_the_crash(guest: Booted, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", str(guest.share / "kdump.elf"), "header"]) == 3
    assert "not-captured" in capsys.readouterr().err
    base, _, bitmap = read_bitmap(guest.share / "dump.last.elf", guest.address)
    covered, at_the_end = set_units(base, b"\xff" * len(bitmap)), set_units(base, bitmap)
    kept = set_units(base, guest.kept_table("last")[24:])
    assert at_the_end < kept, "more was accepted since"
    for dump in ("kdump.elf", "kdump.z"):
        command = ["-c", str(guest.share / dump), "--table", str(guest.kept("last") / "snapshot.json"), "ranges"]
        assert main([*command, "--format", "json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["source"], answer["table"]["read_through"], answer["exact"]) == ("reconstructed", "file", True)
        assert guest.found["boot_id"] in answer["table"]["reason"]
        unaccepted = units(answer, "unaccepted")
        assert units(answer, "accepted") & covered == covered - unaccepted
        # The guest lived on for a moment after the host had stopped it, and may have accepted a chunk or two.
        assert unaccepted <= at_the_end and len(at_the_end - unaccepted) <= 4


def test_without_bpf_what_was_kept_before_stays_and_the_journal_says_so(guest: Booted) -> None:
    assert "CAP_BPF" in journal(guest.found["no CAP_BPF"]), guest.found["no CAP_BPF"]
    assert succeeded(guest.found["no CAP_BPF"]), guest.found["no CAP_BPF"]
    table = f"{guest.found['boot_id']}/table-{guest.address:#x}.bin"
    assert table in guest.found["no CAP_BPF, files"]
    assert f"/{table}@{guest.address:#x}" in journal(guest.found["no CAP_BPF"])


def test_where_it_cannot_the_journal_says_why(guest: Booted) -> None:
    for name, reason in (("no CAP_SYS_RAWIO", "CAP_SYS_RAWIO"), ("lockdown", "lockdown=confidentiality")):
        told = guest.found[name]
        assert (told["ActiveState"], told["Result"], told["ExecMainStatus"]) == ("failed", "exit-code", "3"), told
        assert len(told["said"]) == 1 and reason in journal(told), told
    for name in ("snapshot.json", f"table-{guest.address:#x}.bin"):
        assert (guest.kept("lockdown") / name).read_bytes() == (guest.kept("last") / name).read_bytes()


# The check and the crash dumps


def test_the_check_s_timer_leaves_metrics(guest: Booted) -> None:
    told = guest.found["check"]
    assert succeeded(told) and told["ExecMainStatus"] == "0", told
    metrics = guest.found["metrics"]
    assert 'source="bitmap",exact="true"' in metrics and "efi_unaccepted_overall_status 0\n" in metrics
    value = re.search(r"^efi_unaccepted_memory_bytes (\d+)$", metrics, re.M)
    # The bitmap may have less than the lists, by the guard units.
    assert value
    assert guest.found["nr after check"] - (8 << 20) <= int(value[1]) <= guest.found["nr before check"]
    assert guest.found["metrics mode"] == "0o644", "node_exporter is not root"
    told = guest.found["check without directory"]
    assert told["ExecMainStatus"] == "3" and "/var/lib/prometheus/node-exporter" in journal(told), told


def test_a_new_crash_dump_is_looked_at(guest: Booted) -> None:
    assert succeeded(guest.found["crash"]), guest.found["crash"]
    names = ("", "/vmcore", "/vmcore.unaccepted.json")
    assert guest.found["crash files"] == [f"202611221900{name}" for name in names]
    beside = json.loads((guest.share / "beside.json").read_text())
    assert beside["unaccepted_bytes"] == len(truth("6.12-fill")["unaccepted_units"]) * UNIT
    # One that grows, by the timer: the path unit sees the directory come, and then nothing.
    assert succeeded(guest.found["crash empty"]), guest.found["crash empty"]
    assert "cut short" in guest.found["crash half"]["error"]["reason"]
    whole = guest.found["crash whole"]
    assert whole["error"] is None and whole["unaccepted_bytes"] == beside["unaccepted_bytes"]


def test_systemd_had_nothing_to_say_of_the_units(guest: Booted) -> None:
    ours = [line for line in guest.found["warnings"] if "drgn-unaccepted-" in line]
    assert [line for line in ours if "Failed with result" not in line and "Failed to start" not in line] == []


# Ansible


def test_the_role_installs_with_pip_and_starts_the_timer(tmp_path: Path) -> None:
    playbook = ansible_playbook()
    wheels = tmp_path / "layer" / "opt" / "wheels-of-the-test"
    wheels.mkdir(parents=True)
    (wheel,) = make_packages(tmp_path / "dist").glob("*.whl")
    done = run([sys.executable, "-m", "pip", "download", "--quiet", "--dest", wheels, wheel], timeout=600)
    if done.returncode:
        pytest.skip(f"pip cannot fetch what the package needs: {done.stderr[-300:]}")
    arguments = (playbook, "/opt/wheels-of-the-test")
    in_guest(tmp_path / "share", "role", *BOOTED, tmp_path / "layer", arguments=arguments, python=PYTHON)
    found = json.loads((tmp_path / "share" / "role.json").read_text())
    for name in ("first", "again"):
        assert found[name]["status"] == 0, found[name]["out"] + found[name]["err"]
    assert recap_changed(found["first"]["out"]) in (5, 6), (
        "directory, files, pip, units, timer; that of metrics may be there"
    )
    assert recap_changed(found["again"]["out"]) == 0
    assert (found["enabled"]["out"], found["active"]["out"]) == ("enabled\n", "active\n")
    assert "NextElapseUSecMonotonic=0" not in found["next"]["out"] and "infinity" not in found["next"]["out"]
    # What the role started is what was installed, under the unit's hardening.
    assert found["service"]["status"] == 0, found["journal"]["out"]
    assert 'source="bitmap",exact="true"' in found["metrics"]["out"]
    answer = json.loads((tmp_path / "share" / "results" / "guest.json").read_text())
    assert answer["table"]["read_through"] == "bpf" and answer["exact"] is True


def recap_changed(text: str) -> int:
    found = re.search(r"^guest +: .*\bchanged=(\d+)", text, re.M)
    assert found, text
    return int(found[1])
