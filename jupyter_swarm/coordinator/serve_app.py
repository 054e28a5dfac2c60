"""A Jupyter server that hosts sessions and offers nothing else: no kernels, terminals, contents or files.

Whoever has its token can open, change and delete sessions, and stop the server. Nobody can run code on it, which makes
it the thing to put on a public address.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec
from jupyter_core.paths import jupyter_data_dir
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.contents.manager import AsyncContentsManager
from traitlets import default
from traitlets.config import Config

from ..protocol.errors import SettingError, StoreError
from .app import SwarmExtension

TOKEN_VARIABLE = "JUPYTER_TOKEN"
TOKEN_FILE = "owner-token"


class ServeOptions(msgspec.Struct, frozen=True):
    """`storage`: folder of all that is stored (None: the user's data folder). `url`: by which others reach the server,
    for invite links. `certificate` and `key`: PEM files, for https."""

    port: int = 8888
    ip: str = "localhost"
    storage: Path | None = None
    url: str = ""
    certificate: Path | None = None
    key: Path | None = None


class NoContents(AsyncContentsManager):
    """Serves no files, also not below /files/."""

    def get_extra_handlers(self) -> list[tuple[str, type, dict[str, str]]]:
        return []


class SwarmServer(ServerApp):
    """Hosts sessions of jupyter_swarm, without kernels, terminals and contents."""

    # Its own name, so that it reads its own configuration files and not those of a notebook server.
    name = "jupyter-swarm-serve"
    default_services = ("api", "auth", "security", "shutdown")  # type: ignore[assignment]

    @default("contents_manager_class")
    def _no_contents(self) -> type[AsyncContentsManager]:
        return NoContents

    @default("terminals_enabled")
    def _no_terminals(self) -> bool:
        return False

    @default("allow_unauthenticated_access")
    def _nothing_by_omission(self) -> bool:
        return False

    @default("allow_remote_access")
    def _behind_any_name(self) -> bool:
        return True  # proxies and tunnels bring their own Host header, and no cookie of ours goes to a foreign one

    @default("allow_root")
    def _root_too(self) -> bool:
        return True  # what Jupyter refuses is code execution as root; a container has no other user

    @default("no_browser_open_file")
    def _no_page(self) -> bool:
        return True

    @default("answer_yes")
    def _stop_at_once(self) -> bool:
        return True  # sessions go on when it is started again

    def running_server_info(self, kernel_count: bool = True) -> str:
        source = os.environ.get("JUPYTER_TOKEN_FILE") if not os.environ.get(TOKEN_VARIABLE) else TOKEN_VARIABLE
        return (
            "Hosting sessions of jupyter_swarm, without kernels, terminals and files.\n"
            f"Open one from anywhere: jupyter swarm host digits --server {self._address}\n"
            f"It asks for the owner's token, which is in {source}"
        )

    @property
    def _address(self) -> str:
        """The base URL as others may type it, without the token."""
        chosen = self.config.SwarmExtension.get("public_url", "")
        return chosen or self.connection_url


def serve(options: ServeOptions) -> None:
    """Run the server until it is stopped. Raises `SettingError`, `StoreError`."""
    for file in (options.certificate, options.key):
        if file is not None and not file.is_file():
            raise SettingError(f"There is no file {file}.", todo="Check the paths of the certificate and its key.")
    storage = (options.storage or Path(jupyter_data_dir()) / "swarm-serve").expanduser().resolve()
    if not os.environ.get(TOKEN_VARIABLE):
        os.environ["JUPYTER_TOKEN_FILE"] = str(token_file(storage))
    config = Config(
        ServerApp={
            "port": options.port,
            "port_retries": 0,
            "ip": options.ip,
            "certfile": str(options.certificate or ""),
            "keyfile": str(options.key or ""),
        },
        SwarmExtension={"storage": str(storage), "public_url": options.url},
    )
    app = SwarmServer.instance(config=config, jpserver_extensions={SwarmExtension.name: True})
    app.initialize(argv=[], find_extensions=False)
    app.start()


def token_file(storage: Path) -> Path:
    """The file with the owner's token, made with a new one if it is missing; only this user can read it.

    Raises `StoreError`.
    """
    path, fresh = storage / TOKEN_FILE, storage / f"{TOKEN_FILE}.new"
    try:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never a file without a token in it: with an empty one Jupyter lets everybody in.
        if not path.exists() or not path.read_text(encoding="ascii").strip():
            fresh.unlink(missing_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32))
            os.replace(fresh, path)
    except OSError as error:
        raise StoreError(
            f"The folder {storage} cannot be used.", str(error), "Choose another one with --storage."
        ) from None
    return path
