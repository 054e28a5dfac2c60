"""A real Jupyter server with the extension, for the demo: isolated from the user's own, and never left behind."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from ...protocol.errors import SwarmError
from .. import watch

_START_SECONDS = 60.0
_STOP_SECONDS = 12.0
_LOG_LINES = 15
_FOREIGN = ("JUPYTER", "JPY_", "IPYTHON", "IPYKERNEL")
_TEMPORARY = ("TMPDIR", "TEMP", "TMP")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Server:
    """`with Server() as server`: it runs on a free port with a random token, and all its files lie in `folder`.

    storage: the extension's; it may be read once `stop` has returned. Raises `SwarmError` if it does not start.
    """

    def __init__(self) -> None:
        self.url = ""
        self.folder = Path(tempfile.mkdtemp(prefix="swarm-demo-"))
        self.storage = self.folder / "swarm"
        self.token = secrets.token_urlsafe(32)
        self.headers = {"Authorization": f"token {self.token}"}
        self._log = self.folder / "server.log"
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        try:
            self._start()
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """End the server and its kernels."""
        watcher, self._watcher = self._watcher, None
        if watcher is None or watcher.stdin is None:
            return
        try:
            watcher.stdin.write(b"stop\n")
            watcher.stdin.close()
        except OSError:
            pass
        try:
            watcher.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for process in [*psutil.Process(watcher.pid).children(recursive=True), watcher]:
                process.kill()

    def log_end(self) -> str:
        """The last lines of the server's log."""
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        except OSError:
            return ""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A request to Jupyter's own REST interface; returns its answer. Raises `SwarmError`."""
        try:
            answer = httpx.request(
                method, f"{self.url}/{path}", headers=self.headers, json=body, timeout=60.0, trust_env=False
            )
            answer.raise_for_status()
            return answer.json() if answer.content else None
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            raise SwarmError("The demo's server did not do what it was asked.", f"{path}: {error}") from None

    def _start(self) -> None:
        notebooks = self.folder / "notebooks"
        notebooks.mkdir()
        command = [
            sys.executable,
            "-m",
            "jupyter_server",
            f"--ServerApp.port={_free_port()}",
            "--ServerApp.ip=127.0.0.1",
            "--ServerApp.open_browser=False",
            f"--ServerApp.root_dir={notebooks}",
            "--ServerApp.jpserver_extensions=jupyter_swarm=True",
            f"--SwarmExtension.storage={self.storage}",
            # The peer that is killed stays dead: what a restarter starts would be a fresh kernel that never joined.
            "--KernelManager.autorestart=False",
        ]
        if getattr(os, "geteuid", lambda: 1)() == 0:
            command.append("--allow-root")
        with self._log.open("wb") as log:
            self._watcher = subprocess.Popen(
                [sys.executable, "-m", watch.__name__, "--remove", str(self.folder), "--", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                **_detached(),
            )

    def _environment(self) -> dict[str, str]:
        """The user's, without what belongs to the user's own Jupyter; one thread of arithmetic for each process. What
        libraries leave among temporary files (caches of torch's compiler) goes with the server's folder."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        folders = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "IPYTHONDIR": "ipython",
        }
        for variable, folder in folders.items():
            (self.folder / folder).mkdir(mode=0o700)
            kept[variable] = str(self.folder / folder)
        temporary = self.folder / "temporary"
        temporary.mkdir(mode=0o700)
        kept |= dict.fromkeys(_TEMPORARY, str(temporary)) | dict.fromkeys(_THREADS, "1")
        return kept | {"JUPYTER_TOKEN": self.token}

    def _wait(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            if self._watcher is None or self._watcher.poll() is not None:
                break
            for file in (self.folder / "runtime").glob("jpserver-*.json"):
                try:
                    self.url = str(json.loads(file.read_text())["url"]).rstrip("/")
                    self.ask("GET", "api/status")
                    return
                except (SwarmError, ValueError, OSError):
                    continue  # not yet written, or not yet listening
            time.sleep(0.1)
        raise SwarmError(
            "The demo's Jupyter server did not start.", self.log_end(), "Try: jupyter server --no-browser --port 0"
        )


def _detached() -> dict[str, Any]:
    """How to start a process that Ctrl-C in the terminal does not reach: it is for the demo, which then ends it."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
