# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Python runs first of the one file: shiv's bootstrap, which unpacks the file once, into a directory of this user.

Which that is, no environment says: a command that sudo runs may have the variables of another user.
"""

import os
import sys


def main():  # type: ignore[no-untyped-def]
    if sys.version_info < (3, 9):  # noqa: UP036  Such a Python cannot compile the package.
        this = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
        sys.stderr.write(f"drgn-unaccepted: this is {this}, and at least 3.9 is needed\n")
        sys.exit(3)
    import _bootstrap

    for name in [name for name in os.environ if name.startswith("SHIV_")]:
        del os.environ[name]
    try:
        os.environ["SHIV_ROOT"] = _directory()
        _bootstrap.bootstrap()
    except OSError as error:
        sys.stderr.write(f"drgn-unaccepted: cannot unpack itself: {error}\n")
        sys.exit(3)


def _directory() -> str:
    """``~/.cache/drgn-unaccepted``; where others can write to that, or it cannot be made, one for this run alone."""
    import atexit
    import pwd
    import shutil
    import tempfile
    from contextlib import suppress
    from pathlib import Path

    with suppress(OSError, KeyError):
        place = Path(pwd.getpwuid(os.geteuid()).pw_dir, ".cache", "drgn-unaccepted")
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
        if status.st_uid == os.geteuid() and not status.st_mode & 0o022 and os.access(place, os.W_OK):
            return str(place)
    fresh = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, fresh, ignore_errors=True)
    return fresh
