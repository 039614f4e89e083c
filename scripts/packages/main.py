# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the packages: called by scripts/package, in its virtual environment, with the directory to fill."""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from drgn_unaccepted import __version__
from drgn_unaccepted.checks import rule_names
from drgn_unaccepted.cli import parser

TOP = Path(__file__).resolve().parent.parent.parent
NAME = "drgn-unaccepted"

#: The minor versions of Python 3 that the one file is for.
_PYTHONS = range(9, 15)

CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: drgn-unaccepted
Depends: python3 (>= 3.9), python3-drgn (>= 0.0.31)
Section: admin
Priority: optional
Description: show and check the unaccepted memory of confidential guests
 Shows which memory an Intel TDX or AMD SEV-SNP guest has not accepted yet, in a
 running kernel or a vmcore, and whether the kernel's records of it agree; in
 drgn's prompt as %unaccepted.
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
Requires: python3dist(drgn) >= 0.0.31

%description
Shows which memory an Intel TDX or AMD SEV-SNP guest has not accepted yet, in a running kernel or a vmcore, and whether
the kernel's records of it agree; in drgn's prompt as %%unaccepted.

%install
cp -a {tree}/. %{{buildroot}}

%post
{compile}

%preun
{clean}

%files
{files}
"""

#: What packages do after they are installed, and before they are removed: bytecode for the Python that is there.
COMPILE = f"python3 -m compileall -q /usr/lib/{NAME} || :"
CLEAN = f"find /usr/lib/{NAME} -name __pycache__ -prune -exec rm -r {{}} +"

#: The command of the packages.
COMMAND = f"""\
#!/usr/bin/python3
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "lib" / "{NAME}"))

from drgn_unaccepted.__main__ import main

sys.exit(main())
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
    """The wheels of ``contents.txt``, whose hashes pip verifies, for all Pythons. They are downloaded once."""
    cache.mkdir(parents=True, exist_ok=True)
    listed = Path(__file__).parent / "contents.txt"
    with tempfile.TemporaryDirectory() as place:
        for minor in _PYTHONS:
            argv = [sys.executable, *"-m pip download --quiet --disable-pip-version-check --require-hashes".split()]
            argv += ["--no-deps", "--only-binary", ":all:", "--python-version", f"3.{minor}"]
            argv += ["--requirement", str(listed), "--dest", place]
            cached = subprocess.run(
                [*argv, "--no-index", "--find-links", str(cache)], stderr=subprocess.DEVNULL, check=False
            )
            if cached.returncode:
                subprocess.run(argv, check=True)
        return [Path(shutil.copy(wheel, cache)) for wheel in sorted(Path(place).iterdir())]


def one_file(wheels: Sequence[Path], to: Path) -> None:
    """Everything, drgn and bytecode too, for any Python of :data:`_PYTHONS`. The same wheels make the same bytes.

    drgn's wheels differ in one library, whose name tells the Python.
    """
    (shiv,) = (wheel for wheel in wheels if wheel.name.startswith("shiv-"))
    sys.path.append(str(shiv))
    from shiv.bootstrap.environment import Environment
    from shiv.builder import create_archive

    with tempfile.TemporaryDirectory() as staging:
        tree = Path(staging)
        for wheel in wheels:
            if wheel != shiv:
                shutil.unpack_archive(wheel, tree, "zip")
        program = "drgn_unaccepted.__main__:main"
        environment = Environment("1980-01-01 00:00:00", shiv.name, entry_point=program, compile_pyc=False)
        create_archive([tree], to, "/usr/bin/env python3", "start:main", environment)
        for python in filter(None, (shutil.which(f"python3.{minor}") for minor in _PYTHONS)):
            # By the time of a file Python would compile again what was unpacked.
            argv = [python, "-m", "compileall", "-qq", "-s", staging, "--invalidation-mode", "unchecked-hash", staging]
            subprocess.run(argv, stderr=subprocess.DEVNULL, check=False)
        added = {f"site-packages/{path.relative_to(tree)}": path for path in sorted(tree.rglob("*.pyc"))}
        with zipfile.ZipFile(to, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, path in {"start.py": Path(__file__).parent / "start.py", **added}.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o644 << 16
                archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)


def place(share: Path, wheels: Sequence[Path], tree: Path, sites: Iterable[str]) -> None:
    """Everything but drgn in its places: the command, the units, the man page and the completion.

    :param sites: directories of Python's modules: a file in each makes drgn find the plugin
    """
    shutil.copytree(share, tree / "usr" / "share")
    command, library = tree / "usr" / "bin" / NAME, tree / "usr" / "lib" / NAME
    command.parent.mkdir()
    command.write_text(COMMAND)
    for wheel in wheels:
        if not wheel.name.startswith(("drgn-", "shiv-")):
            shutil.unpack_archive(wheel, library, "zip")
    for record in library.glob("*.dist-info/RECORD"):
        # pip leaves alone what has none.
        record.unlink()
    for site in sites:
        path = tree / "usr" / "lib" / site / f"{NAME}.pth"
        path.parent.mkdir(parents=True)
        path.write_text(f"../../{NAME}\n")
    integrations = tree / "usr" / "share" / NAME / "integrations"
    shutil.move(library / "drgn_unaccepted" / "integrations", integrations)
    shutil.move(integrations / "systemd", tree / "usr" / "lib" / "systemd" / "system")
    for path in tree.rglob("*"):
        program = path in (command, integrations / "kdump" / "unaccepted-table")
        path.chmod(0o755 if path.is_dir() or program else 0o644)


def debian(tree: Path, version: str, out: Path) -> None:
    plugins = tree / "usr" / "lib" / "python3" / "dist-packages" / "sos" / "report" / "plugins"
    plugins.parent.mkdir(parents=True)
    shutil.move(tree / "usr" / "share" / NAME / "integrations" / "sos", plugins)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(CONTROL.format(name=NAME, version=version))
    for name, does in (("postinst", COMPILE), ("prerm", CLEAN)):
        (tree / "DEBIAN" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tree / "DEBIAN" / name).chmod(0o755)
    argv = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(out / f"{NAME}_{version}_all.deb")]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def rpm(tree: Path, version: str, out: Path) -> None:
    files = "\n".join(f"/{path.relative_to(tree)}" for path in sorted(tree.rglob("*")) if path.is_file())
    files += f"\n%dir /usr/lib/{NAME}"
    with tempfile.TemporaryDirectory() as top:
        spec = Path(top) / f"{NAME}.spec"
        words = {"name": NAME, "version": version, "tree": tree, "files": files, "compile": COMPILE, "clean": CLEAN}
        spec.write_text(SPEC.format(**words))
        argv = ["rpmbuild", "--quiet", "-bb", "--define", f"_topdir {top}", "--define", f"_rpmdir {top}/out", str(spec)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.copy(*Path(top, "out").rglob("*.rpm"), out)


#: Name of a package, the program that makes it, the function that calls the program, and where its Pythons look.
PACKAGES = (
    ("Debian package", "dpkg-deb", debian, ["python3/dist-packages"]),
    ("RPM", "rpmbuild", rpm, [f"python3.{minor}/site-packages" for minor in _PYTHONS]),
)


def main() -> int:
    out = Path(sys.argv[1])
    for old in (*out.glob(f"{NAME.replace('-', '_')}-*"), *out.glob(f"{NAME}*")):
        old.unlink()
    wheel = wheel_and_sdist(out)
    version = wheel.name.split("-")[1]
    wheels = [wheel, *contents(Path("~/.cache/drgn-unaccepted-packages").expanduser())]
    one_file(wheels, out / f"{NAME}.pyz")
    with tempfile.TemporaryDirectory() as staging:
        share = Path(staging) / "share"
        share.mkdir()
        documents(share)
        shutil.make_archive(str(out / f"{NAME}-{version}-share"), "gztar", staging, "share")
        for name, program, make, sites in PACKAGES:
            if not shutil.which(program):
                print(f"scripts/package: no {program} here, so no {name}", file=sys.stderr)
                continue
            place(share, wheels, Path(staging) / program, sites)
            make(Path(staging) / program, version, out)
    for path in sorted(out.glob("drgn*unaccepted*")):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
