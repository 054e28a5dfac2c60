"""A kernel that trains in the background is in use, and says so.

Whoever ends what is idle (`MappingKernelManager.cull_idle_timeout`, JupyterHub's culler) goes by what a kernel sends,
and from the end of its last cell on it sends nothing. So it does: an update of an output that is nowhere, which front
ends ignore and servers take for a sign of life of the cell that joined.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from .record import OVER, Record, State

_EVERY_SECONDS = 20.0
# Not what waits for a server that may never come back, nor what somebody has paused and may have forgotten.
_IN_USE: tuple[State, ...] = ("syncing", "waiting", "training")
_NOTHING = {"data": {}, "metadata": {}, "transient": {"display_id": "jupyter_swarm"}}


def keep_kernel(record: Record) -> None:
    """Let this kernel, if it is one, look used for as long as it trains."""
    if "ipykernel" not in sys.modules:
        return
    from ipykernel.kernelapp import IPKernelApp

    if IPKernelApp.initialized():
        kernel = IPKernelApp.instance().kernel
        arguments = kernel, kernel.get_parent("shell"), record
        threading.Thread(target=_keep, args=arguments, name="swarm-activity", daemon=True).start()


def _keep(kernel: Any, cell: dict[str, Any], record: Record) -> None:
    while not record.wait_for(lambda status: status.state in OVER, _EVERY_SECONDS):
        if record.status.state in _IN_USE:
            kernel.session.send(kernel.iopub_socket, "update_display_data", _NOTHING, cell)
