"""A session that a test plays: what widgets ask of one, with the answers that the test sets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from jupyter_swarm.history import build
from jupyter_swarm.notebook.parts import WORK
from jupyter_swarm.peer.checkpoints import Checkpoint
from jupyter_swarm.peer.record import Status
from jupyter_swarm.protocol.errors import LinkError
from jupyter_swarm.protocol.invites import Invite, new_secret, page_of
from jupyter_swarm.protocol.manifest import FileEntry, Manifest

HOSTILE = "<script>alert('x')</script>"
SECRET = "for-the-tests-only-0123456789-abI3zN"
"""Of no invite; well formed, and the same whenever the tests are collected."""
PEER = {
    "id": "peer-1", "name": HOSTILE, "device": "cpu", "state": "computing", "reason": "", "speed": 12.5, "share": 0.5,
    "bytes_sent": 1_000_000, "bytes_received": 500_000, "muted": False, "paused_by": "", "slowed": 1.0,
}  # fmt: skip


def settle() -> None:
    """Wait for what buttons have started."""
    for thread in threading.enumerate():
        if thread.name == WORK:
            thread.join(20)
            assert not thread.is_alive()


class Kept(Checkpoint):
    """A checkpoint without a server, of one tensor."""

    def __init__(self, name: str, number: float, version: int = 3) -> None:
        files = (FileEntry("model.safetensors", 100, "0" * 64, ("0" * 64,)),)
        manifest = Manifest(name, version, files, "", "", session="cs101-7f3a", metrics={"loss": 0.5})
        super().__init__(manifest, f"{name:0<64}")
        self.number = number

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": torch.full((1, 2), self.number)}

    def download(self, folder: str | Path, progress: Any = True) -> Checkpoint:
        progress(40, 100, "40 of 100 bytes")
        if "full" in str(folder):
            raise LinkError("The disk is full.")
        return Checkpoint(self.manifest, self.sha256, Path(folder))


class Recipe:
    name = HOSTILE
    sha256 = "a" * 64
    sample: Callable[..., str] | None = staticmethod(lambda *_: "")

    def build(self) -> torch.nn.Module:
        return torch.nn.Linear(2, 1, bias=False)


class Session:
    """What a panel asks of a session; a test sets the answers."""

    id = "cs101-7f3a"

    def __init__(self) -> None:
        self.recipe = Recipe()
        self.now = Status(state="training", reason="waiting for Ann", version=3, rounds=10, loss=0.5)
        self.trains = True
        self.role = "owner"
        self.outside: bool | None = False
        self.reach: str | None = "machine"
        self.wheel = ""
        self.done: list[Any] = []
        self.people = [PEER]
        self.kept: list[Checkpoint] = []
        self.made: list[dict[str, Any]] = []
        self.drawings = 0
        self.error: Exception | None = None

    def status(self) -> Status:
        if self.error is not None:
            raise self.error
        return self.now

    def overview(self) -> xr.Dataset:
        self.drawings += 1
        return build([])

    def peers(self) -> list[dict[str, Any]]:
        return self.people

    def find_peers(self, name: str, most: int) -> tuple[list[dict[str, Any]], int]:
        found = [one for one in self.people if name.casefold() in one["name"].casefold()]
        return found[:most], len(found)

    def steer(self, peer: str, action: str, share: float = 0.5) -> None:
        self._fail()
        self.done.append((peer, action, share) if action == "slow" else (peer, action))

    def checkpoints(self) -> list[Checkpoint]:
        return self.kept

    def checkpoint(self, name: str = "") -> Checkpoint:
        self._fail()
        self.kept.append(Kept(name or f"round-{len(self.kept)}", float(len(self.kept))))
        return self.kept[-1]

    def sample(self, prompt: str) -> str:
        self._fail()
        return f"{prompt}{HOSTILE}"

    def evaluate(self) -> dict[str, float]:
        self._fail()
        return {"loss": 1.25}

    def issue(self, role: str, expires: float, url: str = "") -> dict[str, Any]:
        self._fail()
        invite = Invite(url or "http://localhost:8888", self.id, new_secret(), page_of(role))  # type: ignore[arg-type]
        one = {
            "number": len(self.made) + 1, "role": role, "label": HOSTILE, "capacity": 0, "uses": 2, "revoked": None,
            "expires": time.time() + (expires or 3600.0),
        }  # fmt: skip
        self.made.append(one)
        return {**one, "link": invite.link, "reach": self.reach, "outside": self.outside, "wheel": self.wheel}

    def invites(self) -> list[dict[str, Any]]:
        return self.made

    def revoke(self, number: int) -> None:
        self._fail()
        self.made[number - 1]["revoked"] = time.time()

    def pause(self) -> None:
        self.done.append("pause")
        self.now = Status(state="paused", reason="paused here", version=3, rounds=10)

    def resume(self) -> None:
        self.done.append("resume")

    def pause_all(self) -> None:
        self.done.append("pause all")

    def resume_all(self) -> None:
        self.done.append("resume all")

    def stop(self) -> None:
        self.done.append("stop")

    def leave(self) -> None:
        raise LinkError("The server is gone.")

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error
