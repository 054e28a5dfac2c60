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


def saves_widgets() -> bool:
    """Whether what widgets hold ends up in the saved notebook: in Colab, and where nobody sits in front who could be
    asked something, as when nbconvert or papermill executes it."""
    kernel = getattr(get_ipython(), "kernel", None)
    return in_colab() or not getattr(kernel, "_allow_stdin", True)


def publish(bundle: dict[str, Any], display_id: str, update: bool = False) -> None:
    """Display a MIME bundle, or replace what was displayed under `display_id`; nothing without an IPython."""
    shell = get_ipython()
    if shell is not None:
        shell.display_pub.publish(data=bundle, metadata={}, transient={"display_id": display_id}, update=update)


class Display:
    """Outputs of a cell that can be replaced later: a heading, below it a view or a picture, and what belongs to it."""

    def __init__(self) -> None:
        self._ids = tuple(uuid.uuid4().hex for _ in range(3))
        self._shown = 0

    def show(self, *bundles: dict[str, Any] | None) -> None:
        """Display MIME bundles below each other; from the second time on they replace what was displayed. For None,
        what is there stays."""
        for place, (bundle, display_id) in enumerate(zip(bundles, self._ids, strict=False)):
            if bundle is not None:
                publish(bundle, display_id, update=place < self._shown)
        self._shown = max(self._shown, len(bundles))
