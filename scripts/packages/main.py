# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the packages: called by scripts/package, in its virtual environment, with the directory to fill."""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import zipapp
from collections.abc import Sequence
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from drgn_unaccepted import __version__
from drgn_unaccepted.checks import rule_names
from drgn_unaccepted.cli import parser

TOP = Path(__file__).resolve().parent.parent.parent
NAME = "drgn-unaccepted"

#: The time of all files of an archive: 1 January 1980, with which ZIP begins, wherever it is made.
_EPOCH = 315619200

CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: drgn-unaccepted
Depends: python3 (>= 3.9)
Recommends: python3-drgn (>= 0.0.31)
Section: admin
Priority: optional
Description: show and check the unaccepted memory of confidential guests
 Shows which memory an Intel TDX or AMD SEV-SNP guest has not accepted yet, in a
 running kernel or a vmcore, and whether the kernel's records of it agree. All but
 snapshots needs drgn 0.0.31 or later for Python.
"""


SPEC = """\
%global __os_install_post %{{nil}}
Name: {name}
Version: {version}
Release: 1
Summary: Show and check the unaccepted memory of confidential guests
License: LGPL-2.1-or-later
BuildArch: noarch
AutoReqProv: no
Requires: python3 >= 3.9
Recommends: drgn >= 0.0.31

%description
Shows which memory an Intel TDX or AMD SEV-SNP guest has not accepted yet, in a running kernel or a vmcore, and whether
the kernel's records of it agree. All but snapshots needs drgn 0.0.31 or later for Python.

%install
cp -a {tree}/. %{{buildroot}}

%files
{files}
"""


def documents(share: Path) -> None:
    """Man page and shell completion, generated from the command line's parser."""
    manual = Manpage(_parser(shared=False))
    manual.description = "show and check the unaccepted memory of a confidential guest"
    manual.source = f"{NAME} {__version__}"
    manual.manual = "User Commands"
    man = share / "man" / "man1" / f"{NAME}.1.gz"
    man.parent.mkdir(parents=True)
    with gzip.GzipFile(man, "wb", mtime=0) as file:
        file.write(str(manual).encode())
    for shell, place in (
        ("bash", f"bash-completion/completions/{NAME}"),
        ("zsh", f"zsh/site-functions/_{NAME}"),
        ("fish", f"fish/vendor_completions.d/{NAME}.fish"),
    ):
        path = share / place
        path.parent.mkdir(parents=True)
        path.write_text(shtab.complete(_with_files(_parser(shared=True)), shell))


def _parser(shared: bool) -> argparse.ArgumentParser:
    """The command line's parser.

    :param shared: show with each command the options of targets, too
    """
    top = parser()
    for command in top.commands.values() if shared else ():
        for action in command._actions:
            if action.help == argparse.SUPPRESS:
                action.help = top._option_string_actions[action.option_strings[0]].help
    return top


def _with_files(of: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Complete file names where an argument names a file."""
    for action in of._actions:
        if action.choices and isinstance(action.choices, dict):
            for inner in action.choices.values():
                _with_files(inner)
        elif action.dest in ("rule", "explain"):
            action.choices = rule_names()
        elif isinstance(action.metavar, str) and any(word in action.metavar for word in ("PATH", "FILE", "DIR")):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return of


def wheel_and_sdist(out: Path) -> Path:
    """The wheel's path."""
    with tempfile.TemporaryDirectory() as copy:
        # setuptools leaves build/ and *.egg-info in the tree.
        tree = Path(copy) / "tree"
        shutil.copytree(
            TOP,
            tree,
            ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "vmcore-samples"),
        )
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = out.glob("*.whl")
    return wheel


def contents(cache: Path) -> list[Path]:
    """The wheels of ``contents.txt``, whose hashes pip verifies. They are downloaded once."""
    cache.mkdir(parents=True, exist_ok=True)
    listed = Path(__file__).parent / "contents.txt"
    with tempfile.TemporaryDirectory() as place:
        argv = [sys.executable, *"-m pip download --quiet --disable-pip-version-check --require-hashes".split()]
        argv += ["--no-deps", "--only-binary", ":all:", "--requirement", str(listed), "--dest", place]
        cached = subprocess.run(
            [*argv, "--no-index", "--find-links", str(cache)], stderr=subprocess.DEVNULL, check=False
        )
        if cached.returncode:
            subprocess.run(argv, check=True)
        return [Path(shutil.copy(wheel, cache)) for wheel in sorted(Path(place).iterdir())]


def archive(wheels: Sequence[Path], to: Path, interpreter: str) -> None:
    """One file that Python runs: the package and its pure dependencies. The same wheels make the same bytes."""
    with tempfile.TemporaryDirectory() as staging:
        tree = Path(staging)
        for wheel in wheels:
            shutil.unpack_archive(wheel, tree, "zip")
        compiled = [path for path in tree.rglob("*") if path.suffix in (".so", ".pyc")]
        if compiled:
            raise SystemExit(f"scripts/package: compiled: {compiled[0].name}")
        shutil.copy(Path(__file__).parent / "zipapp_main.py", tree / "__main__.py")
        for path in tree.rglob("*"):
            os.utime(path, (_EPOCH, _EPOCH))
        zipapp.create_archive(tree, to, interpreter=interpreter, compressed=True)


def place(share: Path, wheels: Sequence[Path], tree: Path) -> None:
    """Everything but drgn in its places: the command, the units, the man page and the completion."""
    shutil.copytree(share, tree / "usr" / "share")
    command = tree / "usr" / "bin" / NAME
    command.parent.mkdir()
    archive(wheels, command, "/usr/bin/python3")
    theirs, ours = TOP / "drgn_unaccepted" / "integrations", tree / "usr" / "share" / NAME / "integrations"
    shutil.copytree(theirs, ours, ignore=shutil.ignore_patterns("systemd", "__pycache__"))
    shutil.copytree(theirs / "systemd", tree / "usr" / "lib" / "systemd" / "system")
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path in (command, ours / "kdump" / "unaccepted-table") else 0o644)


def debian(tree: Path, version: str, out: Path) -> None:
    plugins = tree / "usr" / "lib" / "python3" / "dist-packages" / "sos" / "report" / "plugins"
    plugins.parent.mkdir(parents=True)
    shutil.move(tree / "usr" / "share" / NAME / "integrations" / "sos", plugins)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(CONTROL.format(name=NAME, version=version))
    argv = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(out / f"{NAME}_{version}_all.deb")]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def rpm(tree: Path, version: str, out: Path) -> None:
    files = "\n".join(f"/{path.relative_to(tree)}" for path in sorted(tree.rglob("*")) if path.is_file())
    with tempfile.TemporaryDirectory() as top:
        spec = Path(top) / f"{NAME}.spec"
        spec.write_text(SPEC.format(name=NAME, version=version, tree=tree, files=files))
        argv = ["rpmbuild", "--quiet", "-bb", "--define", f"_topdir {top}", "--define", f"_rpmdir {top}/out", str(spec)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.copy(*Path(top, "out").rglob("*.rpm"), out)


#: Name of a package, the program that makes it, and the function that calls the program.
PACKAGES = (("Debian package", "dpkg-deb", debian), ("RPM", "rpmbuild", rpm))


def main() -> int:
    out = Path(sys.argv[1])
    for old in (*out.glob(f"{NAME.replace('-', '_')}-*"), *out.glob(f"{NAME}*")):
        old.unlink()
    wheel = wheel_and_sdist(out)
    version = wheel.name.split("-")[1]
    zipped = out / f"{NAME}.pyz"
    wheels = [wheel, *contents(Path("~/.cache/drgn-unaccepted-packages").expanduser())]
    archive(wheels, zipped, "/usr/bin/env python3")
    with tempfile.TemporaryDirectory() as staging:
        share = Path(staging) / "share"
        share.mkdir()
        documents(share)
        shutil.make_archive(str(out / f"{NAME}-{version}-share"), "gztar", staging, "share")
        for name, program, make in PACKAGES:
            if not shutil.which(program):
                print(f"scripts/package: no {program} here, so no {name}", file=sys.stderr)
                continue
            place(share, wheels, Path(staging) / program)
            make(Path(staging) / program, version, out)
    for path in sorted(out.glob("drgn*unaccepted*")):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
