"""`jupyter swarm serve`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """
Run a server that hosts sessions and nothing else. It offers no kernels, no terminals and no files, so nobody can run
code on it: the safe thing to put where a whole class can reach it. Training happens in the kernels of those who join.
"""
_EPILOG = """
The owner's token is made once and kept in the storage folder, in a file that only you can read; set JUPYTER_TOKEN to
choose your own. With it, `jupyter swarm host RECIPE --server URL` opens a session from any machine. Stopping the
server loses nothing: started again with the same storage, it goes on with every session.
"""


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="host sessions on a server without kernels, terminals and files",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("--port", type=int, default=8888, help="port to listen on (default: 8888)")
    parser.add_argument(
        "--ip",
        default="localhost",
        help="address to listen on; 0.0.0.0 lets other machines in (default: localhost, this machine only)",
    )
    parser.add_argument(
        "--storage",
        type=Path,
        metavar="DIR",
        help="folder for all that is stored: sessions, parameters, uploads (default: in your Jupyter data folder)",
    )
    parser.add_argument(
        "--url",
        default="",
        help="address by which others reach this server, for invite links; needed behind a proxy or tunnel",
    )
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="TLS certificate (PEM), for https")
    parser.add_argument("--key", type=Path, metavar="FILE", help="private key of the certificate (PEM)")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    from ..coordinator.serve_app import ServeOptions, serve

    serve(ServeOptions(chosen.port, chosen.ip, chosen.storage, chosen.url.rstrip("/"), chosen.certificate, chosen.key))
    return 0
