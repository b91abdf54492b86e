"""Several machines on one: each with processes, network addresses and mounts of its own.

They are made of Linux's namespaces, which takes root. All hang on one switch, reach each other by
name, and nothing outside. A machine's end is that of all its processes at once, as by a power cut.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NETWORK = "10.66.0."
APART = ("unshare", *["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"])
PRIVATE = ("/tmp/ray", "/run")
"""Folders that each machine has for itself."""


class Machine:
    """One of them.

    Attributes:
        name: by which the others know it.
        address: likewise.
        pid: of its first process, with which all others end.
    """

    def __init__(self, number: int, hosts: Path, switch: int) -> None:
        self.name, self.address = f"machine{number}", f"{NETWORK}{number}"
        for folder in PRIVATE:
            Path(folder).mkdir(parents=True, exist_ok=True)
        private = "".join(f"mount -t tmpfs none {folder}; " for folder in PRIVATE)
        begin = (
            f"hostname {self.name}; mount --bind {hosts} /etc/hosts; {private}"
            "ip link set lo up; exec sleep infinity"
        )
        self.holder = subprocess.Popen(
            [*APART, "--kill-child", "sh", "-c", begin],
            stderr=subprocess.DEVNULL,  # it complains when it is killed
        )
        self.pid = _only_child(self.holder.pid)
        cable = f"cable{number}"
        _run(
            *("nsenter", "-t", str(switch), "-n", "ip", "link", "add", cable),
            *("type", "veth", "peer", "name", "eth0", "netns", str(self.pid)),
        )
        _run(*f"nsenter -t {switch} -n ip link set {cable} master bridge up".split())
        _run(*f"nsenter -t {self.pid} -n ip addr add {self.address}/24 dev eth0".split())
        _run(*f"nsenter -t {self.pid} -n ip link set eth0 up".split())

    def command(self, *command: object) -> list[str]:
        """What runs a command on it."""
        inside = ["nsenter", "-t", str(self.pid), "--net", "--mount", "--uts", "--ipc", "--pid"]
        return [*inside, *map(str, command)]

    def start(self, *command: object, **options: Any) -> subprocess.Popen[str]:
        """Run a command on it, in a session of its own."""
        return subprocess.Popen(
            self.command(*command), text=True, start_new_session=True, **options
        )

    def cut_power(self) -> None:
        """End all that runs on it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.holder.wait()

    def pull_cable(self) -> None:
        """Have nothing reach it, and nothing that it sends arrive, from now on."""
        _run(*f"nsenter -t {self.pid} -n ip link set eth0 down".split())


@contextlib.contextmanager
def machines(count: int, folder: Path) -> Iterator[list[Machine]]:
    """So many machines, numbered from 1.

    Args:
        count: how many.
        folder: for a file that has their names.
    """
    hosts = folder / "hosts"
    names = [f"{NETWORK}{number} machine{number}" for number in range(1, count + 1)]
    hosts.write_text("\n".join(["127.0.0.1 localhost", *names, ""]), encoding="ascii")
    with contextlib.ExitStack() as stack:
        switch = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        stack.callback(_end, switch)
        theirs, ours = Path(f"/proc/{switch.pid}/ns/net"), Path("/proc/self/ns/net")
        _wait_for(lambda: theirs.readlink() != ours.readlink())
        _run(*f"nsenter -t {switch.pid} -n ip link add bridge type bridge".split())
        _run(*f"nsenter -t {switch.pid} -n ip link set bridge up".split())
        made = []
        for number in range(1, count + 1):
            made.append(Machine(number, hosts, switch.pid))
            stack.callback(made[-1].cut_power)
        yield made


def require_machines() -> None:
    """Skip the test where machines cannot be made."""
    needs = ("unshare", "nsenter", "ip")
    if not all(map(shutil.which, needs)) or os.geteuid():
        pytest.skip("several machines on one take root, unshare, nsenter and ip")
    tried = subprocess.run(
        [*APART, "ip", "link", "add", "bridge", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"several machines on one cannot be had: {tried.stderr.strip()}")


def _only_child(pid: int) -> int:
    """The process within its namespaces, once it has them all."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    _wait_for(lambda: children.read_text().split())
    child = int(children.read_text())
    _wait_for(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    return child


def _wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a machine was not made in time")
        time.sleep(0.01)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()
