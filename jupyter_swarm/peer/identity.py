"""Who this kernel is in a session: a secret token in a file, under a lock for as long as the member lives.

A kernel that is restarted keeps its id, finds its token, and is the same peer again. If a live process already holds
that identity, this one takes the next free slot: another peer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout
from jupyter_core.paths import jupyter_runtime_dir

_SLOTS = 64


class _Stored(msgspec.Struct, frozen=True):
    token: str = ""


class Identity:
    """The token of one member. `token` is '' until the server has given one; use `keep` then, and `release` at the end.

    key: what tells apart the processes of this machine that may be different peers; the kernel's id by default.
    """

    def __init__(self, server: str, session: str, key: str | None = None, directory: Path | None = None) -> None:
        self.token = ""
        self._path: Path | None = None
        self._lock: FileLock | None = None
        folder = directory or Path(jupyter_runtime_dir()) / "jupyter_swarm"
        name = hashlib.sha256("\0".join((server, session, key or process_key())).encode()).hexdigest()[:32]
        # Without a place to write or to lock (a read-only or network home), this is simply a new peer each time.
        with contextlib.suppress(OSError, NotImplementedError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._take(folder, name)

    def _take(self, folder: Path, name: str) -> None:
        for slot in range(_SLOTS):
            # One thread takes it, another may release it.
            lock = FileLock(folder / f"{name}-{slot}.lock", timeout=0, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                continue
            self._lock = lock
            self._path = folder / f"{name}-{slot}.json"
            with contextlib.suppress(OSError, msgspec.DecodeError):
                self.token = msgspec.json.decode(self._path.read_bytes(), type=_Stored).token
            return

    def keep(self, token: str) -> None:
        """Remember `token` for the next process that is this kernel; readable by this user only."""
        self.token = token
        if self._path is None:
            return
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(msgspec.json.encode(_Stored(token)))
            os.replace(fresh, self._path)

    @property
    def residual(self) -> Path | None:
        """Where what this peer has not sent yet may lie, as long as it is this one. None: there is no such place."""
        return self._path.with_suffix(".residual") if self._path is not None else None

    def release(self) -> None:
        """Let another process take this identity."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __repr__(self) -> str:
        return f"Identity({'known' if self.token else 'new'})"


def process_key() -> str:
    """The id of this kernel, which outlives its restarts; 'terminal' outside of kernels."""
    if "ipykernel" in sys.modules:
        from ipykernel.kernelapp import IPKernelApp

        if IPKernelApp.initialized():
            match = re.search(r"kernel-(.+)\.json$", str(IPKernelApp.instance().connection_file))
            if match:
                return match[1]
    return "terminal"
