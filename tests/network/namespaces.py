"""A small network in Linux network namespaces: machines with links of a given rate, and machines behind NAT.

    with Network({"server": Line("1gbit"), "peer-1": Line("100mbit"), "peer-2": Line("100mbit", nat=True)}) as network:
        with network.inside("server"):
            ...  # this thread, and what it starts, is on that machine

Needs Linux, root, `ip` and `tc`; for NAT also `nft`. Nothing of the machine's own network is touched: the switch
between the machines is in a namespace too. Names begin with a prefix of their own, so several networks may stand at
once. When the `with` ends, however it ends, the processes inside these namespaces are killed and the namespaces go.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

PREFIX = "jswarm"
_NAMED = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Unavailable(Exception):
    """This machine cannot have such a network; the text says why and what to do."""


class Line(NamedTuple):
    """A machine's link. rate: both ways, as `tc` spells it ("100mbit"); "" is unlimited. nat: it can call out, and
    nobody can call it."""

    rate: str = ""
    nat: bool = False


class Traffic(NamedTuple):
    """Bytes that a machine's link has carried, Ethernet headers included."""

    sent: int
    received: int


def bytes_per_second(rate: str) -> float:
    """What `tc` means by "1gbit" or "100mbit"."""
    for unit, bits in (("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)):
        if rate.endswith(unit):
            return float(rate.removesuffix(unit)) * bits / 8
    raise ValueError(f"No rate: {rate!r}. Say it as 100mbit or 1gbit.")


def missing(nat: bool = False) -> str:
    """Why there can be no network of namespaces here, and what to do; "" if there can."""
    if sys.platform != "linux":
        return "Network namespaces need Linux."
    if os.geteuid() != 0:
        return "Network namespaces need root: run this as root."
    tools = ["ip", "tc"] + (["nft"] if nat else [])
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} is missing: apt-get install -y iproute2{' nftables' if nat else ''}."
    return ""


class Network:
    """Machines by name, at 10.77.0.1, .2 and so on in their order, each on its line to one switch; enter it by `with`.

    Raises `Unavailable` when it is entered where it cannot be had; then nothing is left of it.
    """

    def __init__(self, machines: Mapping[str, Line]) -> None:
        self.machines = dict(machines)
        self._tag = f"{PREFIX}-{secrets.token_hex(3)}"
        self._spaces: list[str] = []
        self._before: dict[int, object] = {}

    def __enter__(self) -> Network:
        reason = missing(any(line.nat for line in self.machines.values()))
        if reason:
            raise Unavailable(reason)
        if threading.current_thread() is threading.main_thread():
            # What is to be cleaned up after Ctrl-C is so after these, too.
            self._before = {
                number: signal.signal(number, lambda code, frame: sys.exit(128 + code)) for number in _SIGNALS
            }
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    # --- machines

    def address(self, name: str) -> str:
        """The address under which the others reach a machine, or the address of the router that it is behind."""
        return f"10.77.0.{list(self.machines).index(name) + 1}"

    def command(self, name: str) -> list[str]:
        """What to put before a command so that it runs on a machine; the process keeps its id."""
        return ["ip", "netns", "exec", self._space(name)]

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """The calling thread is on that machine, and so are the threads and processes that it starts."""
        with Path("/proc/thread-self/ns/net").open() as home, (_NAMED / self._space(name)).open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def namespace(self, name: str) -> str:
        """The file that a process of another program can enter a machine by."""
        return str(_NAMED / self._space(name))

    def set_rate(self, name: str, rate: str) -> None:
        """Another rate for a machine's link, both ways; "" is unlimited."""
        self.machines[name] = self.machines[name]._replace(rate=rate)
        self._shape(name)

    # --- how it is made

    @property
    def _switch(self) -> str:
        return f"{self._tag}-switch"

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _port(self, name: str) -> str:
        return f"port{list(self.machines).index(name)}"

    def _outside(self, name: str) -> str:
        """The namespace in which a machine's line ends: its own, or its router's."""
        return self._space(name) + ("-router" if self.machines[name].nat else "")

    def _build(self) -> None:
        self._add(self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        for name, line in self.machines.items():
            outside = self._outside(name)
            self._add(outside)
            _ip("-n", self._switch, "link", "add", self._port(name), "type", "veth", "peer", "eth0", "netns", outside)
            _ip("-n", self._switch, "link", "set", self._port(name), "master", "switch", "up")
            _ip("-n", outside, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", outside, "link", "set", "eth0", "up")
            self._shape(name)
            if line.nat:
                self._add_behind_nat(name)

    def _add(self, space: str) -> None:
        _ip("netns", "add", space)
        self._spaces.append(space)
        _ip("-n", space, "link", "set", "lo", "up")

    def _add_behind_nat(self, name: str) -> None:
        space, router = self._space(name), self._outside(name)
        self._add(space)
        _ip("-n", router, "link", "add", "home", "type", "veth", "peer", "eth0", "netns", space)
        for where, device, address in ((router, "home", "192.168.7.1/24"), (space, "eth0", "192.168.7.2/24")):
            _ip("-n", where, "address", "add", address, "dev", device)
            _ip("-n", where, "link", "set", device, "up")
        _ip("-n", space, "route", "add", "default", "via", "192.168.7.1")
        _run("ip", "netns", "exec", router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        _run("ip", "netns", "exec", router, "nft", "-f", "-", text=_ROUTER)

    def _shape(self, name: str) -> None:
        rate = self.machines[name].rate
        for space, device in ((self._outside(name), "eth0"), (self._switch, self._port(name))):
            if not rate:
                _run("tc", "-n", space, "qdisc", "replace", "dev", device, "root", "pfifo")
                continue
            # At least what passes between two ticks of the kernel's clock, and one packet as large as they come.
            burst = max(int(bytes_per_second(rate) / 100), 1 << 17)
            shaper = ("tbf", "rate", rate, "burst", str(burst), "latency", "50ms")
            _run("tc", "-n", space, "qdisc", "replace", "dev", device, "root", *shaper)

    def _remove(self) -> None:
        for space in self._spaces:
            with contextlib.suppress(Unavailable):
                for pid in map(int, _ip("netns", "pids", space).split()):
                    if pid != os.getpid():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
        for space in reversed(self._spaces):
            with contextlib.suppress(Unavailable):
                _ip("netns", "delete", space)
        self._spaces.clear()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal.signal` gave
        self._before.clear()


def traffic(device: str = "eth0") -> Traffic:
    """What a device of the machine that the calling thread is on has carried so far."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == device:
            counted = numbers.split()
            return Traffic(sent=int(counted[8]), received=int(counted[0]))
    raise Unavailable(f"There is no device {device} here.")


_ROUTER = """
table ip home {
  chain out { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }
  chain through {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "home" accept
  }
}
"""


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise Unavailable(f"A network namespace cannot be entered: {os.strerror(ctypes.get_errno())}.")


def _ip(*words: str) -> str:
    return _run("ip", *words)


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
