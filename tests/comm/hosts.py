"""Two hosts on one machine: namespaces with a network, a name and a /dev/shm of their own, joined by a cable."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("tsr-first", "tsr-second")
ADDRESSES = ("10.99.71.1", "10.99.71.2")
"""Of no network that anything else could have: they exist in the namespaces alone."""


@dataclass(frozen=True)
class Hosts:
    """Two hosts. ``holders``: processes that keep their namespaces; ``launcher``: what mpirun calls instead of ssh."""

    spaces: tuple[str, str]
    holders: tuple[int, int]
    launcher: Path

    def on(self, host: int, *command: object) -> list[str]:
        """A command as one of the hosts runs it."""
        return ["nsenter", "-t", str(self.holders[host]), "-m", "-u", "-n", "--", *map(str, command)]

    def mpirun(self, ranks: int, *command: object) -> list[str]:
        """Ranks in equal parts on the two hosts, started from the first."""
        where = ",".join(f"{address}:{ranks // 2}" for address in ADDRESSES)
        return self.on(0, "mpirun", "-launcher", "ssh", "-launcher-exec", self.launcher, "-iface", "cable", "-hosts",
                       where, "-disable-auto-cleanup", "-n", ranks, *command)

    def plug(self, on: bool) -> None:
        """Joins the hosts, or cuts the cable."""
        _do("ip", "-n", self.spaces[1], "link", "set", "cable", "up" if on else "down")

    def sent(self) -> int:
        """Bytes that the first host has sent to the second."""
        done = subprocess.run(["ip", "-n", self.spaces[0], "-s", "link", "show", "cable"], text=True,
                              capture_output=True, check=True)
        return int(done.stdout.splitlines()[-1].split()[0])


def _do(*command: str) -> None:
    """A command of the system; skips the test where it is not there or not permitted."""
    try:
        done = subprocess.run(command, text=True, capture_output=True, timeout=20)
    except FileNotFoundError:
        pytest.skip(f"no {command[0]}: hosts cannot be made of namespaces")
    if done.returncode != 0:
        pytest.skip(f"namespaces are not permitted here: {' '.join(command[:4])}: {done.stderr.strip()}")


def _await_link(spaces: tuple[str, str]) -> None:
    """Until the system sees the cable at both ends, which takes it a second."""
    until = time.monotonic() + 10
    while not all(" state UP " in subprocess.run(["ip", "-n", space, "link", "show", "cable"], text=True,
                                                 capture_output=True).stdout for space in spaces):
        assert time.monotonic() < until
        time.sleep(0.05)


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """The hosts; skips with a reason where namespaces cannot be made."""
    spaces = (f"tsr-a-{os.getpid()}", f"tsr-b-{os.getpid()}")
    table = folder / "hosts"
    table.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for a, n in zip(ADDRESSES, NAMES, strict=True)))
    holders: list[subprocess.Popen[str]] = []
    try:
        for space in spaces:
            _do("ip", "netns", "add", space)
        _do("ip", "link", "add", "cable", "netns", spaces[0], "type", "veth", "peer", "name", "cable", "netns",
            spaces[1])
        for space, name, address in zip(spaces, NAMES, ADDRESSES, strict=True):
            _do("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                _do("ip", "-n", space, "link", "set", link, "up")
            inside = (f"mount -t tmpfs tmpfs /dev/shm && mount --bind {table} /etc/hosts && hostname {name} && "
                      "echo ready && exec sleep 600")
            holders.append(subprocess.Popen(["ip", "netns", "exec", space, "unshare", "-m", "-u", "sh", "-c", inside],
                                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
            assert holders[-1].stdout is not None
            if holders[-1].stdout.readline() != "ready\n":
                pytest.skip(f"namespaces are not permitted here: {holders[-1].communicate()[1].strip()}")
        _await_link(spaces)
        first, second = (holder.pid for holder in holders)
        launcher = folder / "launcher"
        launcher.write_text(  # options, the host, and the command as a shell has it
            '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\n'
            f"case $1 in {ADDRESSES[0]}) pid={first};; *) pid={second};; esac\nshift\n"
            'exec nsenter -t $pid -m -u -n -- sh -c "$*"\n')
        launcher.chmod(0o755)
        yield Hosts(spaces, (first, second), launcher)
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
        for space in spaces:
            with suppress(OSError):
                subprocess.run(["ip", "netns", "del", space], capture_output=True, timeout=20)
