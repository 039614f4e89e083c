# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run a guest under QEMU (TCG): wait for text on its console, dump it, crash it, stop it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

from .shell import LabError, say

CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
TAIL_LINES = 40


class Guest:
    """A running guest; leaving the `with` block ends it. Its 9p share is the directory `share`."""

    def __init__(self, esp: Path, share: Path, log: Path, machine: Sequence[str]) -> None:
        # The path of a socket must be short, so sockets and the variable store have a temporary directory.
        self._work = tempfile.TemporaryDirectory(prefix="lab-")
        work = Path(self._work.name)
        shutil.copy(VARIABLES, work / "vars.fd")
        self.log = log
        log.write_bytes(b"")
        self._sysrq_socket = work / "console"
        self.command = [
            *"qemu-system-x86_64 -accel tcg,thread=multi -nodefaults -display none -no-reboot".split(),
            *["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={CODE}"],
            *["-drive", f"if=pflash,format=raw,unit=1,file={work / 'vars.fd'}"],
            *["-drive", f"if=none,id=esp,format=raw,readonly=on,file=fat:{esp}"],
            *["-device", "virtio-blk-pci,drive=esp,bootindex=0"],
            *["-virtfs", f"local,path={share},mount_tag=share,security_model=none,multidevs=remap"],
            *["-chardev", f"socket,id=console,path={self._sysrq_socket},server=on,wait=off,logfile={log}"],
            *["-serial", "chardev:console"],
            *["-qmp", f"unix:{work / 'qmp'},server=on,wait=off"],
            *machine,
        ]
        self._errors = work / "stderr"
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._qmp: Optional[_Qmp] = None

    def __enter__(self) -> Guest:
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        try:
            self._wait_for(self._connected, 20, "QEMU's control socket")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._qmp is not None:
            self._qmp.close()
        self._work.cleanup()

    def _connected(self) -> bool:
        try:
            self._qmp = _Qmp(Path(self._work.name) / "qmp")
        except (FileNotFoundError, ConnectionError, LabError):
            return False  # not yet, or QEMU has ended: _wait_for() tells which
        return True

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def console(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_words(self, words: str, timeout: float, start: int = 0, never: Optional[str] = None) -> int:
        """Wait until the console has `words` after its first `start` characters. Return where they end.

        :raises LabError: the console has `never` there, or the guest reported an error
        """
        found = -1
        bad = ("lab: error", "lab-loader-error")

        def said() -> bool:
            nonlocal found
            text = self.console()
            if any(word in text for word in bad) or (never and never in text[start:]):
                raise LabError(self._report("the guest reported an error"))
            found = text.find(words, start)
            return found >= 0

        self._wait_for(said, timeout, f"{words!r} on the console")
        return found + len(words)

    def wait_for_end(self, timeout: float) -> None:
        """Wait until the guest has powered off."""
        self._wait_for(lambda: not self.running, timeout, "the guest to power off", alive=False)

    def stop(self) -> None:
        self._command("stop")

    def resume(self) -> None:
        self._command("cont")

    def dump(self, path: Path, file_format: str = "elf", timeout: float = 300) -> None:
        """Write the guest's memory to `path` and make its blocks of zeros holes. The guest is stopped meanwhile."""
        self._command("dump-guest-memory", timeout=timeout, paging=False, protocol=f"file:{path}", format=file_format)
        dig_holes(path)

    def crash(self) -> int:
        """Crash the guest by SysRq over the serial line. Return how long its console was before.

        Repeat it: on a busy machine, the guest can take break and key for two things.
        """
        start = len(self.console())
        for _ in range(20):
            self._sysrq("c")
            for _ in range(50):
                if "sysrq: Trigger a crash" in self.console()[start:]:
                    return start
                time.sleep(0.2)
        raise LabError(self._report("the guest does not crash on SysRq"))

    def _sysrq(self, key: str) -> None:
        """Send a magic SysRq. In the guest, this runs only an interrupt handler."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
            console.settimeout(20)
            console.connect(str(self._sysrq_socket))
            time.sleep(0.2)
            self._command("chardev-send-break", id="console")
            time.sleep(0.3)
            console.sendall(key.encode())
            time.sleep(0.5)

    def _command(self, name: str, timeout: float = 60, **arguments: object) -> Any:
        assert self._qmp is not None
        return self._qmp.command(name, timeout, arguments)

    def _wait_for(self, ready: Callable[[], bool], timeout: float, what: str, alive: bool = True) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            if alive and not self.running:
                if ready():
                    return
                raise LabError(self._report(f"QEMU ended while the lab waited for {what}"))
            if time.monotonic() > deadline:
                raise LabError(self._report(f"timeout after {timeout:.0f} s: waited for {what}"))
            time.sleep(0.02)

    def _report(self, problem: str) -> str:
        errors = self._errors.read_text(errors="replace") if self._errors.exists() else ""
        tail = "\n".join(self.console().splitlines()[-TAIL_LINES:])
        return f"{problem}\n{errors}--- the end of {self.log}:\n{tail}"


class _Qmp:
    """QEMU's control protocol (QMP): one JSON object per line, interleaved with events."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rwb")
        self._line()  # the greeting
        self.command("qmp_capabilities", 30, {})

    def command(self, name: str, timeout: float, arguments: dict[str, object]) -> Any:
        self._socket.settimeout(timeout)
        request = {"execute": name, "arguments": arguments}
        try:
            self._stream.write(json.dumps(request).encode() + b"\n")
            self._stream.flush()
            while True:
                answer = self._line()
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise LabError(f"QEMU refused {name}: {answer['error'].get('desc')}")
        except TimeoutError as err:
            raise LabError(f"QEMU: {name} did not end within {timeout:.0f} s") from err
        except ConnectionError as err:
            raise LabError(f"QEMU ended during {name}") from err

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def _line(self) -> Any:
        line = self._stream.readline()
        if not line:
            raise LabError("QEMU closed its control socket")
        return json.loads(line)


def dig_holes(path: Path) -> None:
    """Turn the file's blocks of zeros into holes, if the file system supports that."""
    path.chmod(0o644)  # QEMU makes dumps read-only
    done = subprocess.run(
        ["fallocate", "--dig-holes", str(path)], stdin=subprocess.DEVNULL, capture_output=True, timeout=300
    )
    if done.returncode:
        say(f"{path}: blocks of zeros still use disk space")
