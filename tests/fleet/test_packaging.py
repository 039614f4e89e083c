# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people install, made by scripts/packages and used by man, by shells and by a bare Python."""

from __future__ import annotations

import os
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Optional

import pytest

from tests.fleet.tools import FILL, PLANTED, TOP, json_lines, plant, run, tool

pytestmark = pytest.mark.long

for module in ("build", "shtab", "argparse_manpage", "setuptools"):
    pytest.importorskip(module, reason=f"{module} is not here: scripts/venv docs")

COMMANDS = {"summary", "resolve", "check", "scan", "merge", "report"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    done = run([sys.executable, TOP / "scripts" / "packages" / "main.py", out])
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def share(dist: Path) -> Path:
    (archive,) = dist.glob("*-share.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(dist)
    return dist / "share"


def only(dist: Path, pattern: str) -> Path:
    (found,) = dist.glob(pattern)
    return found


def bare_python() -> Optional[str]:
    """A Python that has no drgn."""
    for python in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(python).exists() and run([python, "-c", "import drgn"]).returncode:
            return python
    return None


def test_wheel_and_sdist_have_the_data_files(dist: Path) -> None:
    names = zipfile.ZipFile(only(dist, "*.whl")).namelist()
    with tarfile.open(only(dist, "*-0.*[0-9].tar.gz")) as tar:
        source = {name.partition("/")[2] for name in tar.getnames()}
    for directory in ("integrations", "views/html", "schema"):
        for path in (TOP / "drgn_unaccepted" / directory).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ".py"):
                assert str(path.relative_to(TOP)) in source & set(names)
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


def test_the_zipapp_needs_no_drgn_for_a_snapshot(dist: Path, tmp_path: Path) -> None:
    python = bare_python()
    if python is None:
        pytest.skip("no Python without drgn here")
    plant(FILL, tmp_path / "planted.json")
    zipped = only(dist, "*.pyz")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    there = {"cwd": tmp_path, "env": environment}
    done = run([python, zipped, "--snapshot", tmp_path / "planted.json", "check", "--format", "nagios"], **there)
    assert done.returncode == 2 and PLANTED in done.stdout, done.stderr
    # Files that lie in the archive.
    done = run([python, zipped, "--snapshot", tmp_path / "planted.json", "report", "-o", tmp_path / "r.html"], **there)
    assert done.returncode == 0 and "<html" in (tmp_path / "r.html").read_text(), done.stderr
    # Child processes run from the archive.
    done = run([python, zipped, "scan", "--quiet", tmp_path / "planted.json", "-o", tmp_path / "s.jsonl"], **there)
    assert done.returncode == 0, done.stderr
    assert json_lines(tmp_path / "s.jsonl")[1]["status"] == "critical"
    done = run([python, zipped, "-c", FILL], **there)
    assert (done.returncode, done.stdout) == (3, "")
    assert "drgn is not installed" in done.stderr and len(done.stderr.splitlines()) == 1


def test_zipapp_and_wheel_with_drgn(dist: Path, tmp_path: Path) -> None:
    """The Ansible role installs the wheel so; the dependencies are those of this Python: nothing is downloaded."""
    done = run([sys.executable, only(dist, "*.pyz"), "-c", FILL, "ranges"], cwd=tmp_path)
    assert done.returncode == 0 and "0x125a00000" in done.stdout, done.stderr
    done = run([sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv"])
    assert done.returncode == 0, done.stderr
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", only(dist, "*.whl")]
    done = run(install)
    assert done.returncode == 0, done.stderr
    done = run([tmp_path / "venv" / "bin" / "drgn-unaccepted", "--version"], cwd=tmp_path)
    assert done.stdout.startswith("drgn-unaccepted ")


def test_the_man_page(share: Path) -> None:
    man = tool("man", "man-db")
    page = only(share / "man" / "man1", "drgn-unaccepted.1.gz")
    environment = {**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-c"}
    done = run([man, "--warnings", "-E", "UTF-8", "-l", page], env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("SYNOPSIS", "--snapshot PATH", "--shard I/N", "exit status: 0 answered", "in ACPI memory"):
        assert words in done.stdout
    for command in COMMANDS:
        assert f"drgn-unaccepted {command}" in done.stdout
    # Options that all commands share are listed once.
    assert done.stdout.count("--debug-info") <= 2


def complete(shell: str, share: Path, line: str) -> set[str]:
    """What a real shell offers for a line."""
    if shell == "fish":
        script = share / "fish" / "vendor_completions.d" / "drgn-unaccepted.fish"
        code = f"source {script}; complete -C '{line}'"
        return {word.partition("\t")[0] for word in run([tool("fish", "fish"), "-N", "-c", code]).stdout.splitlines()}
    script = share / "bash-completion" / "completions" / "drgn-unaccepted"
    words = line.split(" ")
    code = (
        f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        "$(complete -p drgn-unaccepted | sed 's/.*-F \\([^ ]*\\).*/\\1/') drgn-unaccepted; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    code = code.replace("$(complete", "f=$(complete").replace(") drgn-unaccepted;", '); "$f" drgn-unaccepted;')
    done = run(["bash", "--norc", "-c", code])
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completion(shell: str, share: Path) -> None:
    assert {"scan", "summary", "snapshot"} >= complete(shell, share, "drgn-unaccepted s") >= {"scan", "summary"}
    assert "--shard" in complete(shell, share, "drgn-unaccepted scan --sh")
    assert "page-lists" in complete(shell, share, "drgn-unaccepted --source p")


def test_completion_of_zsh(share: Path) -> None:
    """In a real zsh on its own terminal: type, press Tab, read the screen."""
    zsh = tool("zsh", "zsh")
    functions = share / "zsh" / "site-functions"
    code = f"""
zmodload zsh/zpty
zpty shell {zsh} -f
zpty -w shell 'PS1=; fpath=({functions} $fpath); autoload -U compinit; compinit -u -D; LISTMAX=1000; print ready'
zpty -r -m shell line '*ready*'
zpty -w -n shell $'drgn-unaccepted sc\\t --sha\\t'
zpty -r -m shell line '*--shard*' && print -r -- found
zpty -d shell
"""
    done = run([zsh, "-f", "-c", code])
    assert "found" in done.stdout


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
    done = run([tmp_path / "usr" / "bin" / "drgn-unaccepted", "merge", "--help"], cwd=tmp_path)
    assert done.returncode == 0 and "worst findings first" in done.stdout, done.stderr
