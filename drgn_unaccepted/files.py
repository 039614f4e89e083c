# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open files that a user names, replace files atomically, and print.

A name can lead to a device: a read of the memory device can kill a confidential guest, ``/dev/zero`` has no end, and a
file renamed over ``/dev/null`` breaks the machine. It can lead to a pipe without a writer, whose open(2) never returns.
Where a function takes a ``directory``, that is the descriptor which its ``path`` is relative to.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Callable, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.words import WIDTH, safe, wrap

DUMPS = (b"\x7fELF", b"KDUMP   ", b"makedumpfile\0")  #: How dumps begin that are not compressed.
TABLE = ".unaccepted-table"  #: The suffix of the table that a crash kernel saved beside a dump.


def open_input(path: str) -> BufferedReader:
    """Open a file, a pipe, or standard input (``-``), to be read once from its beginning.

    :raises OSError: it cannot be opened, is a device, a dump, or a pipe that stays empty; ``filename`` is set
    """
    if path == "-":
        file = os.fdopen(0, "rb", closefd=False)
    # The shell has opened the writer of /dev/fd/63, which stands for <(command).
    elif not _is_pipe(path) or os.path.realpath(path).startswith("/proc/"):
        file = Path(path).open("rb")  # noqa: SIM115
    else:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        if not select.select([file], [], [], limits.PIPE_SECONDS)[0]:
            file.close()
            raise OSError(errno.ETIMEDOUT, f"a pipe, and nothing came through it for {limits.PIPE_SECONDS} s", path)
        os.set_blocking(file.fileno(), True)
    if file.peek(1).startswith(DUMPS):
        file.close()
        raise OSError(errno.EINVAL, "a dump: give it with -c", path)
    return file


def open_dump(path: str) -> BufferedReader:
    """Open a regular file, or a block device that kdump wrote to, for random access. OSError: a pipe, or refused."""
    if _is_pipe(path):
        raise OSError(errno.ESPIPE, "a pipe, and this is read here and there: save it to a file", path)
    return Path(path).open("rb")


def read_trusted(path: str, most: int, directory: Optional[int] = None, root_too: bool = False) -> bytes:
    """A file that only this user (or root) can have written, through no link; at most ``most`` bytes and one more.

    :raises OSError: it cannot be opened, or somebody else can have written it; ``filename`` is set
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if not is_mine(status, root_too):
            raise OSError(errno.EPERM, f"user {status.st_uid} or others can have written it", path)
        return file.read(min(status.st_size, most) + 1)


@contextmanager
def open_directory(path: str, start: Optional[int] = None, private: bool = False) -> Iterator[int]:
    """The descriptor of a directory, reached without following a link of anybody but root and this user.

    :param start: the descriptor that ``path`` is relative to
    :param private: refuse a directory that others can change
    :raises OSError: it cannot be opened, or there is such a link; ``filename`` is ``path``
    """
    todo, links, here = [".", *reversed((Path(path).absolute() if start is None else Path(path)).parts)], 0, start
    with ExitStack() as stack:
        try:
            while todo:
                part = todo.pop()
                flags = os.O_PATH | os.O_NOFOLLOW if todo else os.O_RDONLY | os.O_DIRECTORY
                there = os.open(part, flags | os.O_CLOEXEC, dir_fd=here)
                stack.callback(os.close, there)
                status = os.fstat(there)
                if not stat.S_ISLNK(status.st_mode):
                    here = there
                    continue
                links += 1
                if status.st_uid not in (0, os.geteuid()):
                    raise OSError(errno.ELOOP, f"{part} is a link of user {status.st_uid}, which is not followed")
                if links > 40:  # as the kernel follows at most, see path_resolution(7)
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                todo += reversed(Path(os.readlink("", dir_fd=there)).parts)
            if private and not is_mine(status):
                who = f"of user {status.st_uid}, mode {status.st_mode & 0o7777:o}"
                raise OSError(errno.EPERM, f"others than this user can change what is in it ({who})")
        except OSError as error:
            error.filename = path
            raise
        yield there


def is_mine(status: os.stat_result, root_too: bool = False) -> bool:
    """Whether a file is this user's (or root's), and nobody else may write it."""
    is_owned = status.st_uid == os.geteuid() or (root_too and status.st_uid == 0)
    return is_owned and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def check_replaceable(path: str, directory: Optional[int] = None) -> None:
    """Refuse to replace anything but a regular file. OSError: ``path`` exists and is something else."""
    with suppress(FileNotFoundError):
        mode = os.stat(path, dir_fd=directory).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EEXIST, "not a regular file, and nothing else is replaced", path)


def tmpdir() -> str:
    """The directory for temporary files of any size."""
    return os.environ.get("TMPDIR") or "/var/tmp"


def nameless() -> BinaryIO:
    """A new file in :func:`tmpdir`, which only this process can open, and which is gone when it is closed."""
    path = Path(tmpdir(), f".drgn-unaccepted.{os.urandom(8).hex()}")
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b")
    path.unlink()
    return file


@contextmanager
def replacing(path: str, mode: Optional[int] = 0o600, directory: Optional[int] = None) -> Iterator[BinaryIO]:
    """A temporary file beside ``path``, which replaces ``path`` when the block ends without an exception.

    Without a mode it gets that of the umask. A failure leaves the old file and nothing else; a process that is killed
    can leave the temporary file, ``.NAME.`` and eight more characters. A link is replaced, and what it names stays.

    :raises OSError: it cannot be written, or :func:`check_replaceable` refuses ``path``; ``filename`` is ``path``
    """
    place, name = os.path.split(path)
    prefix = f".{name}."
    temporary = str(Path(place, f"{prefix}{os.urandom(4).hex()}"))
    try:
        check_replaceable(path, directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o666 if mode is None else 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if mode is not None:
                    os.fchmod(descriptor, mode)
                yield file
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        # So that the rename survives a power failure, on file systems that can.
        with suppress(OSError), open_directory(place or ".", directory) as there:
            os.fsync(there)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)).name.startswith(prefix):
            error.filename = path
        raise


def write_atomically(
    path: str, data: Union[str, bytes], mode: Optional[int] = 0o600, directory: Optional[int] = None
) -> None:
    """Write ``data`` to ``path`` through :func:`replacing`; text is encoded in UTF-8."""
    with replacing(path, mode, directory) as file:
        file.write(data if isinstance(data, bytes) else data.encode("utf-8"))


def to_stderr(line: str) -> None:
    """Print a line, on a terminal wrapped, with paths whole. The exit status says the same where stderr is full."""
    text = safe(line)
    with suppress(OSError):
        shown = "\n    ".join(wrap(text, width=WIDTH - 4, cut=False)) if sys.stderr.isatty() else text
        print(shown, file=sys.stderr, flush=True)


def to_stdout(lines: Iterable[str]) -> None:
    """Print lines as they are made. Errors of their making are not taken for errors of writing.

    :raises CommandError: stdout takes no more, for example a file on a full disk
    :raises BrokenPipeError: its reader went away
    """
    for line in lines:
        _out(sys.stdout.write, f"{line}\n")
    _out(sys.stdout.flush)


def _out(do: Callable[..., object], *text: str) -> None:
    try:
        do(*text)
    except OSError as error:
        # The buffer has nowhere to go either, and would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(f"stdout: {error.strerror}") from None


def _is_pipe(path: str) -> bool:
    mode = Path(path).stat().st_mode
    if stat.S_ISCHR(mode):
        raise OSError(errno.ENODEV, "a device, which is not opened", path)
    return stat.S_ISFIFO(mode)
