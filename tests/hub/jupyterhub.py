"""A JupyterHub with its proxy and one user's server, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests import kernels
from tests.benchmarks.harness import free_port

from . import installed

USER = "ann"
_START_SECONDS = 120.0
_END_SECONDS = 60.0
_ADMIN = ["admin:users", "admin:servers", "list:users", "tokens", "access:servers", "read:users:activity"]
_FOLDERS = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")


class Hub:
    """Reached at `url`, its base URL, through its proxy; `server` is that of the user's own Jupyter server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port, inner, api = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}/class"
        self.server = f"{self.url}/user/{USER}"
        self.password = secrets.token_hex(8)
        self._admin = secrets.token_hex(16)
        settings: dict[str, Any] = {
            "JupyterHub.bind_url": f"{self.url}/",
            "JupyterHub.hub_ip": "127.0.0.1",
            "JupyterHub.hub_port": inner,
            "JupyterHub.cookie_secret_file": str(folder / "cookie_secret"),
            "JupyterHub.db_url": f"sqlite:///{folder / 'hub.sqlite'}",
            "JupyterHub.authenticator_class": "dummy",
            "JupyterHub.spawner_class": "simple",
            "JupyterHub.services": [{"name": "test", "api_token": self._admin}],
            "JupyterHub.load_roles": [{"name": "test", "scopes": _ADMIN, "services": ["test"]}],
            "ConfigurableHTTPProxy.command": installed.proxy(),
            "ConfigurableHTTPProxy.api_url": f"http://127.0.0.1:{api}",
            "ConfigurableHTTPProxy.auth_token": secrets.token_hex(16),
            "ConfigurableHTTPProxy.pid_file": str(folder / "proxy.pid"),
            "DummyAuthenticator.password": self.password,
            "Authenticator.allow_all": True,
            "SimpleLocalProcessSpawner.home_dir_template": str(folder / "home" / "{username}"),
            "Spawner.cmd": [installed.program("jupyterhub-singleuser")],
            "Spawner.args": ["--allow-root"],
            "Spawner.default_url": "/swarm/join/none",
            "Spawner.environment": self._environment(),
        }
        config = folder / "config.py"
        config.write_text("".join(f"c.{name} = {value!r}\n" for name, value in settings.items()))
        with (folder / "hub.log").open("wb") as log:
            self._process = subprocess.Popen(
                [installed.program("jupyterhub"), "-f", str(config)],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "PATH": f"{Path(installed.program('x')).parent}{os.pathsep}{os.environ['PATH']}"},
            )  # fmt: skip

    def start(self) -> None:
        """Wait for the hub, make the user, start their server."""
        self._until(lambda: self._ask("GET", ""), "the hub")
        self._ask("POST", f"users/{USER}")
        self._ask("POST", f"users/{USER}/server")
        self._until(lambda: self.user()["servers"][""]["ready"], "the user's server")
        self.token = self._ask("POST", f"users/{USER}/tokens", {"note": "a test"})["token"]

    def stop(self) -> None:
        """End all of it; the hub ends its proxy and its servers, and what it leaves is killed."""
        with contextlib.suppress(httpx.HTTPError):
            self._ask("DELETE", f"users/{USER}/server")
        with contextlib.suppress(psutil.NoSuchProcess):
            hub = psutil.Process(self._process.pid)
            family = [hub, *hub.children(recursive=True)]
            self._process.terminate()
            for one in psutil.wait_procs(family, _END_SECONDS)[1]:
                one.kill()
        self._process.wait()

    @property
    def owner(self) -> dict[str, str]:
        """The headers of a request by the user."""
        return {"Authorization": f"token {self.token}"}

    def kernel(self) -> str:
        """A new kernel of the user's."""
        return kernels.start(self.server, self.owner)

    def execute(self, kernel: str, code: str, headers: dict[str, str] | None = None) -> str:
        """As `kernels.execute`, by the user unless others' headers are given."""
        return kernels.execute(self.server, self.owner if headers is None else headers, kernel, code)

    def user(self) -> Any:
        """What the hub knows of the user."""
        return self._ask("GET", f"users/{USER}")

    def said(self) -> str:
        """The last that was logged."""
        return (self.folder / "hub.log").read_text(errors="replace")[-6000:]

    def _environment(self) -> dict[str, str]:
        folders = {name: str(self.folder / name.lower()) for name in _FOLDERS}
        # The extension is enabled where this environment's configuration says so.
        return {
            **folders,
            "JUPYTER_CONFIG_PATH": str(Path(sys.prefix) / "etc" / "jupyter"),
            "JUPYTERHUB_SINGLEUSER_APP": "jupyter_server.serverapp.ServerApp",
            "OMP_NUM_THREADS": "1",
        }

    def _ask(self, verb: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(
            verb, f"{self.url}/hub/api/{path}", headers={"Authorization": f"token {self._admin}"},
            content=None if body is None else json.dumps(body), trust_env=False, timeout=30,
        )  # fmt: skip
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def _until(self, ready: Any, what: str) -> None:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            assert self._process.poll() is None, self.said()
            with contextlib.suppress(httpx.HTTPError, KeyError):
                if ready():
                    return
            time.sleep(0.1)
        raise AssertionError(f"{what} is not there:\n{self.said()}")
