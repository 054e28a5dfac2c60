"""`GET swarm/wheel/NAME`: this server's own package as a wheel, so that who joins installs the very version it runs.

It is made of what is installed, from a wheel or as an editable source tree, when somebody asks for the first time. The
same package gives the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from tornado.web import HTTPError

from .. import __version__
from .guard import Guarded, allows

PACKAGE = "jupyter_swarm"
NAME = f"{PACKAGE}-{__version__}-py3-none-any.whl"
_INFO = f"{PACKAGE}-{__version__}.dist-info"
_DATA = f"{PACKAGE}-{__version__}.data/data"
_LABEXTENSIONS = "share/jupyter/labextensions"
_WHEEL = "Wheel-Version: 1.0\nGenerator: jupyter_swarm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
_building = threading.Lock()

Files = dict[str, bytes]
"""Path in the wheel -> content."""


def wheel() -> bytes:
    """The wheel, built once. Raises `PackageNotFoundError` where the package is not installed, but imported from a
    folder."""
    with _building:
        return _build()


@cache
def _build() -> bytes:
    installed = distribution(PACKAGE)
    package = Path(__file__).parents[1]
    files = {**_modules(package), **_data(installed, package)}
    files = dict(sorted(files.items())) | _metadata(installed)
    record = [f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items()]
    files[f"{_INFO}/RECORD"] = "".join([*record, f"{_INFO}/RECORD,,\n"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, _FIRST_DAY)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # as on Unix, wherever it is built
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _modules(package: Path) -> Files:
    """The package's own files, without what a source tree has beside them to be installed elsewhere."""
    elsewhere = {package / "etc", *(root.parent for root in _labextensions(package))}
    return {
        f"{PACKAGE}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in _files_in(package)
        if not elsewhere.intersection(path.parents)
    }


def _data(installed: Distribution, package: Path) -> Files:
    """What is installed for Jupyter to find: the extension's configuration, and the panel if it is built. One in a
    source tree may have been built again since."""
    panels = _labextensions(package)
    folders = ("etc",) if panels else ("etc", "share")
    found = {}
    for file in installed.files or ():
        inside = [part for part in file.parts if part != ".."]
        if ".." in file.parts and inside[0] in folders and (path := Path(str(file.locate()))).is_file():
            found[f"{_DATA}/{'/'.join(inside)}"] = path.read_bytes()
    for root in panels:
        name = json.loads((root / "package.json").read_bytes())["name"]
        for path in _files_in(root):
            found[f"{_DATA}/{_LABEXTENSIONS}/{name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return found


def _labextensions(package: Path) -> list[Path]:
    """The folders in which a source tree has a built panel."""
    return sorted(path.parent for path in package.glob("*/*/package.json"))


def _files_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.is_file() and "__pycache__" not in inside and not any(part.startswith(".") for part in inside):
            yield path


def _metadata(installed: Distribution) -> Files:
    """The folder that describes the package. An editable tree may have gone on since it was installed: its version is
    the one that it says itself."""
    text = installed.read_text("METADATA") or ""
    text = re.sub(r"^Version: .*$", f"Version: {__version__}", text, count=1, flags=re.MULTILINE)
    licenses = {
        f"{_INFO}/licenses/{file.name}": Path(str(file.locate())).read_bytes()
        for file in installed.files or ()
        if file.parent.name == "licenses" and file.parent.parent.suffix == ".dist-info"
    }
    return {
        f"{_INFO}/METADATA": text.encode(),
        f"{_INFO}/WHEEL": _WHEEL.encode(),
        f"{_INFO}/entry_points.txt": (installed.read_text("entry_points.txt") or "").encode(),
        **dict(sorted(licenses.items())),
    }


class Wheel(Guarded):
    """For everybody: what it is made of is no secret, and pip brings none. A copy that is kept is asked about again,
    since a source tree changes without its version."""

    @allows("anyone")
    async def get(self, name: str) -> None:
        if name != NAME:
            raise HTTPError(404, f"This server has {NAME}")
        try:
            content = await asyncio.to_thread(wheel)
        except PackageNotFoundError:
            raise HTTPError(404, f"{PACKAGE} is not installed on this server but imported from a folder") from None
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Disposition", f'attachment; filename="{NAME}"')
        self.set_header("Cache-Control", "public, no-cache")
        self.finish(content)
