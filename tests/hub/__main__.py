"""A class behind a real JupyterHub: `python -m tests.hub` installs what it takes, once, and runs the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from . import installed

if sys.platform == "win32":
    sys.exit("JupyterHub does not run on Windows.")
if not installed.is_installed():
    print(f"Installing JupyterHub and its proxy into {installed.HOME} …", flush=True)
    installed.install()
if "--install" not in sys.argv:
    sys.exit(pytest.main([str(Path(__file__).parent), "-v", *sys.argv[1:]]))
