# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that the user names, or that lie where anybody may put one: opened and replaced so that none does harm.

Under the name of a dump there can be a device: to read that of memory can kill a confidential guest, ``/dev/zero`` has
no end, and a file renamed over ``/dev/null`` breaks the machine. There can be a pipe that nobody writes to, whose
open(2) never returns.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from drgn_unaccepted import limits


def open_input(path: str) -> BufferedReader:
    """A file or a pipe to be read once, from its beginning.

    :raises OSError: it cannot be opened, is a device, or a pipe through which nothing came for
        :data:`limits.PIPE_SECONDS`; ``strerror`` says which and ``filename`` is there
    """
    mode = _mode(path)
    # /dev/fd/63, as the shell makes it of <(command), has its writer already.
    if stat.S_ISFIFO(mode) and not os.path.realpath(path).startswith("/proc/"):
        return _open_pipe(path)
    return Path(path).open("rb")


def open_dump(path: str) -> BufferedReader:
    """A file that is read here and there, and more than once: a regular one, or a block device that kdump wrote to.

    :raises OSError: as of :func:`open_input`; and no pipe
    """
    if stat.S_ISFIFO(_mode(path)):
        raise OSError(errno.ESPIPE, "a pipe, and this is read here and there: save it to a file", path)
    return Path(path).open("rb")


def check_replaceable(path: str) -> None:
    """Nothing but a regular file gives way to what is written under its name.

    :raises OSError: something else is there
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "not a regular file, and nothing else is replaced", path)


def _mode(path: str) -> int:
    mode = Path(path).stat().st_mode
    if stat.S_ISCHR(mode):
        raise OSError(errno.ENODEV, "a device, which is not opened", path)
    return mode


def _open_pipe(path: str) -> BufferedReader:
    import select

    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not select.select([descriptor], [], [], limits.PIPE_SECONDS)[0]:
            raise OSError(errno.ETIMEDOUT, f"a pipe, and nothing came through it for {limits.PIPE_SECONDS} s", path)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
