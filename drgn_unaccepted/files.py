# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open files that a user names, and replace files atomically.

A name can lead to a device: a read of the memory device can kill a confidential guest, ``/dev/zero`` has no end, and a
file renamed over ``/dev/null`` breaks the machine. It can lead to a pipe without a writer, whose open(2) never returns.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Optional, Union

from drgn_unaccepted import limits


def open_input(path: str) -> BufferedReader:
    """Open a file or a pipe, to be read once from its beginning.

    :raises OSError: it cannot be opened, is a device, or is a pipe that stays empty; ``filename`` is set
    """
    # The shell has opened the writer of /dev/fd/63, which stands for <(command).
    if _is_pipe(path) and not os.path.realpath(path).startswith("/proc/"):
        return _open_pipe(path)
    return Path(path).open("rb")


def open_dump(path: str) -> BufferedReader:
    """Open a file for random access: a regular file, or a block device that kdump wrote to.

    :raises OSError: see :func:`open_input`; a pipe is refused
    """
    if _is_pipe(path):
        raise OSError(errno.ESPIPE, "a pipe, and this is read here and there: save it to a file", path)
    return Path(path).open("rb")


def check_replaceable(path: str) -> None:
    """Refuse to replace anything but a regular file.

    :raises OSError: ``path`` exists and is something else
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "not a regular file, and nothing else is replaced", path)


@contextmanager
def replacing(path: str, mode: Optional[int] = 0o600) -> Iterator[BinaryIO]:
    """A temporary file beside ``path``, which replaces ``path`` when the block ends without an exception.

    Without a mode it gets that of the umask.

    A failure leaves the old file and nothing else; a process that is killed can leave the temporary file, ``.NAME.``
    and eight more characters.

    :raises OSError: it cannot be written, or :func:`check_replaceable` refuses ``path``; ``filename`` is ``path``
    """
    target = Path(path)
    prefix = f".{target.name}."
    try:
        check_replaceable(path)
        temporary = target.with_name(f"{prefix}{os.urandom(4).hex()}")
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                if mode is not None:
                    os.fchmod(descriptor, mode)
                yield file
                file.flush()
                os.fsync(descriptor)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(target.parent)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)).name.startswith(prefix):
            error.filename = path
        raise


def write_atomically(path: str, data: Union[str, bytes], mode: Optional[int] = 0o600) -> None:
    """Write ``data`` to ``path`` through :func:`replacing`; text is encoded in UTF-8."""
    with replacing(path, mode) as file:
        file.write(data if isinstance(data, bytes) else data.encode("utf-8"))


def _sync_directory(path: Path) -> None:
    """Make a rename survive a power failure, on file systems that can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_pipe(path: str) -> bool:
    mode = Path(path).stat().st_mode
    if stat.S_ISCHR(mode):
        raise OSError(errno.ENODEV, "a device, which is not opened", path)
    return stat.S_ISFIFO(mode)


def _open_pipe(path: str) -> BufferedReader:
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not select.select([file], [], [], limits.PIPE_SECONDS)[0]:
        file.close()
        raise OSError(errno.ETIMEDOUT, f"a pipe, and nothing came through it for {limits.PIPE_SECONDS} s", path)
    os.set_blocking(file.fileno(), True)
    return file
