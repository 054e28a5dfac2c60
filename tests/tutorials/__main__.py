"""`python -m tests.tutorials [NAME …]`: execute the tutorials and keep the outputs in their files."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import nbformat

from .executing import TUTORIALS, execute, jupyter_server, tidy


def main(names: list[str]) -> None:
    paths = sorted(path for path in TUTORIALS.glob("*.ipynb") if not names or any(name in path.stem for name in names))
    with tempfile.TemporaryDirectory() as folder, jupyter_server(Path(folder)) as server:
        for path in paths:
            begun = time.monotonic()
            nbformat.write(tidy(execute(path, server)), path)
            print(f"{path.name}: {time.monotonic() - begun:.0f} s, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
