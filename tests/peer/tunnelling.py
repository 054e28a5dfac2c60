"""A command that makes a tunnel: a small reverse proxy that talks as such commands do."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

# Others come in by another name, as behind a real tunnel; it also names addresses that are not the way in.
TUNNEL = """
import re, socket, sys, threading

def pipe(source, target):
    while data := source.recv(1 << 16):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

def serve(outside, port):
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += outside.recv(1 << 16)
    inside = socket.create_connection(("127.0.0.1", port))
    inside.sendall(re.sub(rb"(?i)\\r\\nhost: [^\\r]*", b"\\r\\nHost: quick-fox.tunnel.example", head, count=1))
    threading.Thread(target=pipe, args=(inside, outside), daemon=True).start()
    pipe(outside, inside)

listener = socket.create_server(("127.0.0.1", 0))
port = int(sys.argv[1])
print("Thank you. Read https://127.0.0.1:9/docs/terms. Forwarding to http://localhost:%d" % port, flush=True)
print("\\x1b[32mINF\\x1b[0m |  http://127.0.0.1:%d  |" % listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0], port), daemon=True).start()
"""


def command(folder: Path, code: str) -> str:
    script = folder / "tunnel command.py"
    script.write_text(textwrap.dedent(code))
    return f'"{sys.executable}" "{script}" {{port}}'
