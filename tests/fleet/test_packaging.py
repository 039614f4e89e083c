# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people install, made by scripts/packages and used by man, by shells and by a bare Python."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.tools import FILL, PLANTED, TOP, json_lines, make_packages, plant, run, tool

pytestmark = pytest.mark.long

LOCK = TOP / "scripts" / "packages" / "contents.txt"
CACHE = Path("~/.cache/drgn-unaccepted-packages").expanduser()
#: Where the one file unpacks itself.
UNPACKED = Path("~/.cache/drgn-unaccepted").expanduser()

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
    """What of the one file is not this program's is, byte for byte, that of a wheel whose hash is listed."""
    names = re.findall(r"^(\w+)==", LOCK.read_text(), re.M)
    hashes = re.findall("--hash=sha256:([0-9a-f]{64})", LOCK.read_text())
    requirements = metadata.distribution("drgn-unaccepted").requires or []
    needed = {re.split("[>=!; ]", requirement)[0] for requirement in requirements if "extra" not in requirement}
    assert needed | {"shiv"} == set(names)
    wheels = [path for path in CACHE.glob("*.whl") if hashlib.sha256(path.read_bytes()).hexdigest() in hashes]
    assert len(wheels) == len(hashes)
    pinned: dict[str, set[bytes]] = {}
    for archive in map(zipfile.ZipFile, wheels):
        for name in archive.namelist():
            place = name.replace("shiv/bootstrap", "_bootstrap") if "shiv/" in name else f"site-packages/{name}"
            pinned.setdefault(place, set()).add(archive.read(name))
    one = zipfile.ZipFile(only(dist, "*.pyz"))
    ours = re.compile(r"site-packages/drgn_unaccepted.*|.*\.pyc|start\.py|__main__\.py|environment\.json")
    others = [name for name in one.namelist() if not ours.fullmatch(name)]
    assert len(others) > 200 and not [name for name in others if one.read(name) not in pinned[name]]


def isolated(*argv: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run with the system's Python and nothing else; skips where that has drgn."""
    python = Path("/usr/bin/python3")
    if not python.exists() or run([python, "-I", "-c", "import drgn"]).returncode == 0:
        pytest.skip("no Python without drgn here")
    return run([python, "-I", *argv], cwd="/", env={"PATH": "/usr/bin:/bin"}, **more)


@pytest.fixture
def one(dist: Path) -> Iterator[Path]:
    """The one file where every user can read it, with a name of its own, as what it unpacks has."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(shutil.copy(only(dist, "*.pyz"), Path(directory, f"{Path(directory).name}.pyz")))
        for path in UNPACKED.glob(f"*{Path(directory).name}*"):
            (shutil.rmtree if path.is_dir() else os.unlink)(path)


def test_the_one_file_needs_python_and_nothing_else(one: Path, tmp_path: Path) -> None:
    assert "0x125a00000" in isolated(one, "-c", FILL, "ranges").stdout
    plant(FILL, tmp_path / "planted.json")
    done = isolated(one, "--snapshot", tmp_path / "planted.json", "check", "--format", "nagios")
    assert done.returncode == 2 and PLANTED in done.stdout, done.stderr
    # Files of the package, and child processes.
    done = isolated(one, "--snapshot", tmp_path / "planted.json", "report", "-o", tmp_path / "r.html")
    assert done.returncode == 0 and "<html" in (tmp_path / "r.html").read_text(), done.stderr
    done = isolated(one, "scan", "--quiet", FILL, tmp_path / "planted.json", "-o", tmp_path / "s.jsonl")
    assert {record.get("status") for record in json_lines(tmp_path / "s.jsonl")} == {None, "ok", "critical"}
    # The bytecode is that of the file: nothing was compiled.
    compiled = {str(path).partition("/site-packages/")[2] for path in UNPACKED.glob(f"{one.name}_*/**/*.pyc")}
    assert set() < {f"site-packages/{name}" for name in compiled} <= set(zipfile.ZipFile(one).namelist())


@pytest.mark.skipif(os.geteuid() != 0, reason="runs as another user")
@pytest.mark.parametrize("user", [0, 65534])
def test_the_one_file_believes_no_environment_and_no_directory_of_others(one: Path, user: int) -> None:
    """What it unpacks lies where only this user writes; one without a home gets a directory for one run."""
    environment = {"PATH": "/usr/bin:/bin", "SHIV_INTERPRETER": "1"}
    for name in ("HOME", "SHIV_ROOT", "TMPDIR"):
        environment[name] = str(one.with_name(name))
        one.with_name(name).mkdir()
        one.with_name(name).chmod(0o777)
    done = run(["/usr/bin/python3", one, "--version"], cwd="/", env=environment, user=user)
    assert done.stdout.startswith("drgn-unaccepted "), done.stderr
    assert [path for name in ("HOME", "SHIV_ROOT", "TMPDIR") for path in one.with_name(name).iterdir()] == []


def test_the_one_file_names_a_python_that_is_too_old(one: Path) -> None:
    pretend = "import runpy, sys; sys.version_info = (3, 8, 18); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = run([sys.executable, "-c", pretend, one])
    assert done.returncode == 3
    assert done.stderr == "drgn-unaccepted: this is Python 3.8, and at least 3.9 is needed\n"


def test_the_man_page(share: Path) -> None:
    man = tool("man", "man-db")
    page = only(share / "man" / "man1", "drgn-unaccepted.1.gz")
    environment = {**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-c"}
    done = run([man, "--warnings", "-E", "UTF-8", "-l", page], env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("SYNOPSIS", "--snapshot PATH", "--shard I/N", "exit status: 0 answered", "in ACPI memory"):
        assert words in " ".join(done.stdout.split())
    assert "drgn-unaccepted resolve" in done.stdout
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


#: What drgn does to find plugins, with the directory of a package's ``.pth`` file as that of a Python.
PLUGINS = """import importlib.metadata, site, sys
site.addsitedir(sys.argv[1])
found = importlib.metadata.entry_points()
found = found.select(group="drgn.plugins") if hasattr(found, "select") else found["drgn.plugins"]
print([(entry.name, entry.value) for entry in found])
import drgn_unaccepted, tabulate, elftools
print({module.__file__.startswith(sys.argv[2]) for module in (drgn_unaccepted, tabulate, elftools)})"""


def check_unpacked(root: Path, site: str) -> None:
    """Files of a package below a root of its own, where this Python has nothing of it."""
    ours = "man/man1/drgn-unaccepted.1.gz", "bash-completion/completions/drgn-unaccepted"
    units = "lib/systemd/system/drgn-unaccepted-check.timer", "share/drgn-unaccepted/integrations/slurm/scan.sbatch"
    for path in ("bin/drgn-unaccepted", *(f"share/{path}" for path in ours), *units):
        assert (root / "usr" / path).is_file(), path
    assert os.access(root / "usr/share/drgn-unaccepted/integrations/kdump/unaccepted-table", os.X_OK)
    done = isolated("-B", "-c", PLUGINS, root / "usr" / "lib" / site, root)
    assert done.stdout == "[('unaccepted', 'drgn_unaccepted.plugin')]\n{True}\n", done.stderr
    done = isolated("-B", root / "usr" / "bin" / "drgn-unaccepted", "merge", "--help")
    assert done.returncode == 0 and "worst findings first" in done.stdout, done.stderr
    done = isolated("-B", root / "usr" / "bin" / "drgn-unaccepted", "-c", FILL)
    assert (done.returncode, done.stdout) == (3, "")
    assert "drgn is not installed" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_debian_package(dist: Path, tmp_path: Path) -> None:
    dpkg, package = tool("dpkg-deb", "dpkg"), only(dist, "*.deb")
    fields = run([dpkg, "--field", package, "Package", "Depends"]).stdout
    assert fields == "Package: drgn-unaccepted\nDepends: python3 (>= 3.9), python3-drgn (>= 0.0.31)\n"
    assert run([dpkg, "--extract", package, tmp_path]).returncode == 0
    check_unpacked(tmp_path, "python3/dist-packages")
    assert (tmp_path / "usr/lib/python3/dist-packages/sos/report/plugins/drgn_unaccepted.py").is_file()


def test_the_rpm(dist: Path, tmp_path: Path) -> None:
    rpm = [tool("rpm", "rpm"), "--root", tmp_path, "--dbpath", "/rpm"]
    tool("rpmbuild", "rpm")
    done = run([*rpm, "--nodeps", "--noscripts", "--install", only(dist, "*.noarch.rpm")])
    assert done.returncode == 0, done.stderr
    needed = run([*rpm, "--query", "--requires", "drgn-unaccepted"]).stdout
    assert "python3 >= 3.9\npython3dist(drgn) >= 0.0.31\n" in needed
    for minor in (9, 13, 14):
        check_unpacked(tmp_path, f"python3.{minor}/site-packages")
    assert run([*rpm, "--erase", "--noscripts", "drgn-unaccepted"]).returncode == 0
    assert [path for path in (tmp_path / "usr").rglob("*") if path.is_file()] == []
