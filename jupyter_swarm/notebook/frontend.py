"""Which front end there is: what it can show, and whether it shows what a background thread changes."""

from __future__ import annotations

import sys
import uuid
from typing import Any

from IPython.core.getipython import get_ipython


def in_colab() -> bool:
    """Colab shows only what the running cell changes."""
    return "google.colab" in sys.modules


def has_widgets() -> bool:
    """Whether this is a kernel with ipywidgets: widgets in a terminal are just their names."""
    if getattr(get_ipython(), "kernel", None) is None:
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


def publish(bundle: dict[str, Any], display_id: str, update: bool = False) -> None:
    """Display a MIME bundle, or replace what was displayed under `display_id`; nothing without an IPython."""
    shell = get_ipython()
    if shell is not None:
        shell.display_pub.publish(data=bundle, metadata={}, transient={"display_id": display_id}, update=update)


class Display:
    """Two outputs of a cell that can be replaced later: a heading, and below it a view or a picture."""

    def __init__(self) -> None:
        self._ids = (uuid.uuid4().hex, uuid.uuid4().hex)
        self._shown = False

    def show(self, heading: dict[str, Any], view: dict[str, Any] | None = None) -> None:
        """Display both MIME bundles; from the second time on they replace what was displayed. Without a view the one
        that is there stays."""
        for bundle, display_id in zip((heading, view), self._ids, strict=True):
            if bundle is not None:
                publish(bundle, display_id, update=self._shown)
        self._shown = True
