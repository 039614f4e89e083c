# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people install, made by scripts/packages and used by man, by shells and by a bare Python."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.fleet.tools import FILL, PLANTED, TOP, json_lines, make_packages, plant, run, tool

pytestmark = pytest.mark.long

LOCK = TOP / "scripts" / "packages" / "contents.txt"
CACHE = Path("~/.cache/drgn-unaccepted-packages").expanduser()

for module in ("build", "shtab", "argparse_manpage", "setuptools"):
    pytest.importorskip(module, reason=f"{module} is not here: scripts/venv docs")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_packages(tmp_path_factory.mktemp("dist"))


def only(dist: Path, pattern: str) -> Path:
    (found,) = dist.glob(pattern)
    return found


@pytest.fixture(scope="module")
def share(dist: Path) -> Path:
    with tarfile.open(only(dist, "*-share.tar.gz")) as tar:
        tar.extractall(dist)
    return dist / "share"


def test_wheel_and_sdist_have_the_data_files(dist: Path) -> None:
    names = zipfile.ZipFile(only(dist, "*.whl")).namelist()
    with tarfile.open(only(dist, "drgn_unaccepted-*.tar.gz")) as tar:
        source = {name.partition("/")[2] for name in tar.getnames()}
    for directory in ("integrations", "views/html", "schema"):
        for path in (TOP / "drgn_unaccepted" / directory).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ".py"):
                assert str(path.relative_to(TOP)) in source & set(names)
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


def test_contents_are_those_of_the_lock_file(dist: Path) -> None:
    """Each file of the zipapp that is not this program's is, byte for byte, that of a wheel whose hash is listed."""
    locked = dict(re.findall(r"^(\w+)==\S+ --hash=sha256:([0-9a-f]{64})$", LOCK.read_text(), re.M))
    requirements = metadata.distribution("drgn-unaccepted").requires or []
    needed = {re.split("[>=; ]", requirement)[0] for requirement in requirements if "extra" not in requirement}
    assert needed - {"drgn"} == locked.keys()
    wheels = [path for path in CACHE.glob("*.whl") if hashlib.sha256(path.read_bytes()).hexdigest() in locked.values()]
    assert len(wheels) == len(locked)
    pinned = {name: zipfile.ZipFile(wheel).read(name) for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    archive = zipfile.ZipFile(only(dist, "*.pyz"))
    others = [name for name in archive.namelist() if not name.startswith("drgn_unaccepted") and not name.endswith("/")]
    assert {name: archive.read(name) for name in others if name != "__main__.py"} == pinned


def test_the_zipapp_needs_no_drgn_for_a_snapshot(dist: Path, tmp_path: Path) -> None:
    python = Path("/usr/bin/python3")
    if not python.exists() or run([python, "-c", "import drgn"]).returncode == 0:
        pytest.skip("no Python without drgn here")
    plant(FILL, tmp_path / "planted.json")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def zipped(*argv: object, snapshot: bool = True) -> subprocess.CompletedProcess[str]:
        target = ("--snapshot", tmp_path / "planted.json") if snapshot else ()
        return run([python, only(dist, "*.pyz"), *target, *argv], cwd=tmp_path, env=environment)

    done = zipped("check", "--format", "nagios")
    assert done.returncode == 2 and PLANTED in done.stdout, done.stderr
    # Files that lie in the archive.
    done = zipped("report", "-o", tmp_path / "r.html")
    assert done.returncode == 0 and "<html" in (tmp_path / "r.html").read_text(), done.stderr
    # Child processes run from the archive.
    done = zipped("scan", "--quiet", tmp_path / "planted.json", "-o", tmp_path / "s.jsonl", snapshot=False)
    assert done.returncode == 0, done.stderr
    assert json_lines(tmp_path / "s.jsonl")[1]["status"] == "critical"
    done = zipped("-c", FILL, snapshot=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "drgn is not installed" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_zipapp_names_a_python_that_is_too_old(dist: Path) -> None:
    pretend = "import runpy, sys; sys.version_info = (3, 8, 18); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = run([sys.executable, "-c", pretend, only(dist, "*.pyz")])
    assert done.returncode == 3
    assert done.stderr == "drgn-unaccepted: this is Python 3.8, and at least 3.9 is needed\n"


def test_zipapp_and_wheel_with_drgn(dist: Path, tmp_path: Path) -> None:
    """The Ansible role installs the wheel so; the dependencies are those of this Python: nothing is downloaded."""
    done = run([sys.executable, only(dist, "*.pyz"), "-c", FILL, "ranges"], cwd=tmp_path)
    assert done.returncode == 0 and "0x125a00000" in done.stdout, done.stderr
    place = tmp_path / "venv" / "bin"
    for argv in (
        [sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv"],
        [place / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", only(dist, "*.whl")],
    ):
        done = run(argv)
        assert done.returncode == 0, done.stderr
    assert run([place / "drgn-unaccepted", "--version"], cwd=tmp_path).stdout.startswith("drgn-unaccepted ")


def test_the_man_page(share: Path) -> None:
    man = tool("man", "man-db")
    page = only(share / "man" / "man1", "drgn-unaccepted.1.gz")
    environment = {**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-c"}
    done = run([man, "--warnings", "-E", "UTF-8", "-l", page], env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("SYNOPSIS", "--snapshot PATH", "--shard I/N", "exit status: 0 answered", "in ACPI memory"):
        assert words in " ".join(done.stdout.split())
    for command in ("summary", "resolve", "check", "scan", "merge", "report"):
        assert f"drgn-unaccepted {command}" in done.stdout
    # Options that all commands share are listed once.
    assert done.stdout.count("--debug-info") <= 2


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completion(shell: str, share: Path) -> None:
    """What a real shell offers for a line."""

    def offers(line: str) -> set[str]:
        if shell == "fish":
            script = share / "fish" / "vendor_completions.d" / "drgn-unaccepted.fish"
            done = run([tool("fish", "fish"), "-N", "-c", f"source {script}; complete -C '{line}'"])
        else:
            script = share / "bash-completion" / "completions" / "drgn-unaccepted"
            code = (
                f"source {script}; COMP_WORDS=({line}); COMP_CWORD={line.count(' ')}; "
                "f=$(complete -p drgn-unaccepted | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \"$f\" drgn-unaccepted; "
                'printf "%s\\n" "${COMPREPLY[@]}"'
            )
            done = run(["bash", "--norc", "-c", code])
        assert done.returncode == 0, done.stderr
        return {word.partition("\t")[0] for word in done.stdout.splitlines()}

    assert {"scan", "summary", "snapshot"} >= offers("drgn-unaccepted s") >= {"scan", "summary"}
    assert "--shard" in offers("drgn-unaccepted scan --sh")
    assert "page-lists" in offers("drgn-unaccepted --source p")
    assert "nagios" in offers("drgn-unaccepted check --format n")
    assert {"header-version"} == offers("drgn-unaccepted check --rule header")
    assert "--snapshot" in offers("drgn-unaccepted check --sn")


def test_completion_of_zsh(share: Path) -> None:
    """In a real zsh on its own terminal: type, press Tab, read the screen."""
    zsh, functions = tool("zsh", "zsh"), share / "zsh" / "site-functions"
    code = f"""
zmodload zsh/zpty
zpty shell {zsh} -f
zpty -w shell 'PS1=; fpath=({functions} $fpath); autoload -U compinit; compinit -u -D; LISTMAX=1000; print ready'
zpty -r -m shell line '*ready*'
zpty -w -n shell $'drgn-unaccepted sc\\t --sha\\t'
zpty -r -m shell line '*--shard*' && print -r -- found
zpty -d shell
"""
    assert "found" in run([zsh, "-f", "-c", code]).stdout


def test_the_debian_package(dist: Path, tmp_path: Path) -> None:
    dpkg = tool("dpkg-deb", "dpkg")
    package = only(dist, "*.deb")
    assert run([dpkg, "--field", package, "Package"]).stdout.strip() == "drgn-unaccepted"
    assert run([dpkg, "--extract", package, tmp_path]).returncode == 0
    for path in (
        "usr/bin/drgn-unaccepted",
        "usr/share/man/man1/drgn-unaccepted.1.gz",
        "usr/share/bash-completion/completions/drgn-unaccepted",
        "usr/lib/systemd/system/drgn-unaccepted-check.timer",
        "usr/share/drgn-unaccepted/integrations/slurm/scan.sbatch",
        "usr/lib/python3/dist-packages/sos/report/plugins/drgn_unaccepted.py",
    ):
        assert (tmp_path / path).is_file(), path
    assert os.access(tmp_path / "usr/share/drgn-unaccepted/integrations/kdump/unaccepted-table", os.X_OK)
    done = run([tmp_path / "usr" / "bin" / "drgn-unaccepted", "merge", "--help"], cwd=tmp_path)
    assert done.returncode == 0 and "worst findings first" in done.stdout, done.stderr


def test_the_rpm(dist: Path, tmp_path: Path) -> None:
    """Installed into a root of its own, and removed."""
    rpm = [tool("rpm", "rpm"), "--root", tmp_path, "--dbpath", "/rpm"]
    tool("rpmbuild", "rpm")
    done = run([*rpm, "--nodeps", "--install", only(dist, "*.noarch.rpm")])
    assert done.returncode == 0, done.stderr
    assert run([*rpm, "--query", "--requires", "drgn-unaccepted"]).stdout.splitlines()[0] == "python3 >= 3.9"
    for path in ("usr/lib/systemd/system/drgn-unaccepted-keep.timer", "usr/share/man/man1/drgn-unaccepted.1.gz"):
        assert (tmp_path / path).is_file(), path
    done = run([tmp_path / "usr" / "bin" / "drgn-unaccepted", "merge", "--help"], cwd=tmp_path)
    assert done.returncode == 0 and "worst findings first" in done.stdout, done.stderr
    assert run([*rpm, "--erase", "drgn-unaccepted"]).returncode == 0
    assert [path for path in (tmp_path / "usr").rglob("*") if path.is_file()] == []
