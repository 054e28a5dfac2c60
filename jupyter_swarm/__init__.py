"""Jupyter kernels anywhere train one model together, through the Jupyter server they can already reach.

Importing the package is light: neither torch nor the Jupyter server is loaded until a name that needs it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .history import open_history as open_history
    from .optim import SGD as SGD
    from .optim import AdamW as AdamW
    from .optim import Nesterov as Nesterov
    from .optim import Schedule as Schedule
    from .optim import Sophia as Sophia
    from .peer.api import Session as Session
    from .peer.api import host as host
    from .peer.api import join as join
    from .peer.api import train as train
    from .peer.checkpoints import Checkpoint as Checkpoint
    from .peer.checkpoints import open_checkpoint as open_checkpoint
    from .peer.comparing import compare as compare
    from .peer.doctor import doctor as doctor
    from .peer.preflight import Preflight as Preflight
    from .peer.preflight import preflight as preflight
    from .peer.recipe import Data as Data
    from .peer.recipe import Recipe as Recipe
    from .peer.recipe import load_recipe as load_recipe
    from .peer.rehearsal import rehearse as rehearse
    from .peer.verdict import Rehearsal as Rehearsal
    from .peer.windows import Windows as Windows
    from .protocol.layout import ParameterGroup as ParameterGroup
    from .protocol.rules import Codec as Codec
    from .shards.layout import decay_matrices as decay_matrices
    from .strategies import EveryStep as EveryStep
    from .strategies import LocalUpdates as LocalUpdates
    from .strategies import SparseLocalUpdates as SparseLocalUpdates
    from .strategies import StreamingLocalUpdates as StreamingLocalUpdates
    from .strategies import WarmStart as WarmStart

__version__ = "0.1.0"

# Public name -> where it lives, relative to this package; the imports above say the same to type checkers.
_EXPORTS = {
    "AdamW": ".optim",
    "Checkpoint": ".peer.checkpoints",
    "Codec": ".protocol.rules",
    "Data": ".peer.recipe",
    "EveryStep": ".strategies",
    "LocalUpdates": ".strategies",
    "SparseLocalUpdates": ".strategies",
    "StreamingLocalUpdates": ".strategies",
    "Nesterov": ".optim",
    "ParameterGroup": ".protocol.layout",
    "Preflight": ".peer.preflight",
    "Recipe": ".peer.recipe",
    "Rehearsal": ".peer.verdict",
    "SGD": ".optim",
    "Schedule": ".optim",
    "Session": ".peer.api",
    "Sophia": ".optim",
    "WarmStart": ".strategies",
    "Windows": ".peer.windows",
    "compare": ".peer.comparing",
    "decay_matrices": ".shards.layout",
    "doctor": ".peer.doctor",
    "host": ".peer.api",
    "join": ".peer.api",
    "load_recipe": ".peer.recipe",
    "open_checkpoint": ".peer.checkpoints",
    "open_history": ".history",
    "preflight": ".peer.preflight",
    "rehearse": ".peer.rehearsal",
    "train": ".peer.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562) and keep it."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell a Jupyter server which application this package adds to it."""
    from .coordinator.app import SwarmExtension

    return [{"module": "jupyter_swarm.coordinator.app", "app": SwarmExtension}]


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """``%load_ext jupyter_swarm``: register the ``%swarm`` magics."""
    from .notebook.magics import load_ipython_extension as load

    load(ipython)
