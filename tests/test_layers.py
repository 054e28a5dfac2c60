"""Which part of the package may import which, read from the source: imports inside functions count as well."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jupyter_swarm

PACKAGE = Path(jupyter_swarm.__file__).parent
ROOT = PACKAGE.name

# A layer imports only from itself and from the layers before it.
LAYERS = [
    "protocol",
    "decisions",
    "plan",
    "link",
    "optim",
    "shards",
    "strategies",
    "store",
    "history",
    "coordinator",
    "peer",
    "experts",
    "recipes",
    "notebook",
    "cli",
]
SERVER_SIDE = {"coordinator", "cli"}
SERVER_ONLY = {"jupyter_server", "jupyterlab", "tornado", f"{ROOT}.coordinator"}

PURE = {"protocol", "decisions"}
IMPURE = {
    "asyncio",
    "datetime",
    "http",
    "httpx",
    "multiprocessing",
    "numpy",
    "os",
    "queue",
    "random",
    "select",
    "selectors",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "torch",
    "websockets",
}


def imports_of(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Every module or name that the source of ``module`` imports, as absolute dotted names."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def layers_of(imported: str) -> set[str]:
    """The layers that an import reaches; names exported by the package itself count where they are defined."""
    parts = imported.split(".")
    if parts[0] != ROOT:
        return set()
    if len(parts) == 1:
        return {home.split(".")[1] for home in jupyter_swarm._EXPORTS.values()}
    home = jupyter_swarm._EXPORTS.get(parts[1])
    if home is not None:
        return {home.split(".")[1]}
    return set() if parts[1].startswith("__") else {parts[1]}


def within(imported: str, modules: set[str]) -> bool:
    return any(imported == name or imported.startswith(f"{name}.") for name in modules)


def complaints(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module of the package."""
    layer = module.split(".")[1]
    if layer not in LAYERS:
        return [f"{module}: {layer!r} is not one of the layers"]
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    found = []
    for imported in imports_of(ast.parse(source), module, is_package):
        if not layers_of(imported) <= allowed:
            found.append(f"{module}: {imported} belongs to a later layer")
        if layer not in SERVER_SIDE and within(imported, SERVER_ONLY):
            found.append(f"{module}: {imported} exists on the server only")
        if layer in PURE and within(imported, IMPURE):
            found.append(f"{module}: {imported} in a layer without I/O, clock and numbers")
    return found


def test_every_module_imports_only_what_its_layer_may() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts == (ROOT, "__init__"):
            continue
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += complaints(path.read_text(encoding="utf-8"), module, is_package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jupyter_swarm.link.socket", "from ..store import journal"),
        ("jupyter_swarm.link.socket", "def f():\n    from jupyter_swarm.peer import api"),
        ("jupyter_swarm.shards.holder", "from jupyter_swarm import EveryStep"),
        ("jupyter_swarm.shards.holder", "import jupyter_swarm"),
        ("jupyter_swarm.peer.api", "from .. import coordinator"),
        ("jupyter_swarm.notebook.magics", "import tornado.web"),
        ("jupyter_swarm.decisions.rounds", "import time"),
        ("jupyter_swarm.protocol.frames", "from torch import Tensor"),
        ("jupyter_swarm.utils.misc", ""),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert complaints(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jupyter_swarm.coordinator.app", "from jupyter_server.extension.application import ExtensionApp"),
        ("jupyter_swarm.recipes.digits", "from jupyter_swarm import EveryStep, Recipe"),
        ("jupyter_swarm.link.socket", "from jupyter_swarm import __version__\nfrom . import frames\nimport time"),
        ("jupyter_swarm.decisions.rounds", "import timeit_not_a_clock\nfrom ..protocol import rules"),
    ],
)
def test_an_allowed_import_is_left_alone(module: str, source: str) -> None:
    assert complaints(source, module) == []


def test_names_of_pure_and_impure_modules_are_spelled_right() -> None:
    assert set(LAYERS) >= SERVER_SIDE | PURE
    assert IMPURE - {"httpx", "numpy", "torch", "websockets"} <= sys.stdlib_module_names
