"""Whether a server has the memory that a session needs, which is to be said before a class waits for it."""

from __future__ import annotations

from ..protocol.errors import SettingError
from ..protocol.layout import Layout
from ..protocol.rules import SessionSpec
from ..shards.memory import machine_memory, server_bytes


def check_room(spec: SessionSpec, layout: Layout) -> str:
    """A line for the session's log if fewer peers fit than it may have, or ''.

    Raises `SettingError`, with the figures, if there is no room for as many as it waits for.
    """
    free, total = machine_memory()
    needs = [server_bytes(layout, rule) for rule in (spec.rule, *(change.rule for change in spec.changes))]
    fixed, each = (max(parts) for parts in zip(*needs, strict=True))
    peers = spec.settings.minimum_peers
    if fixed + peers * each > free:
        needed = f"with {_people(peers)} the session needs {_text(fixed + peers * each)} of memory"
        raise SettingError(
            f"This server is too small for the model: {needed}, and {_text(free)} are free.",
            f"It keeps the parameters, the optimizer's state and the version that is being made ({_text(fixed)}), and "
            f"each peer's contribution until it is merged ({_text(each)}). The server may use {_text(total)} in all.",
            "Close other kernels and programs on it, open the session on a server with more memory, or train a smaller "
            "model. Contributions in fp16 or int8 take less, and so does an optimizer with less state.",
        )
    fit = (free - fixed) // each
    if fit >= spec.settings.capacity:
        return ""
    return (
        f"This server's memory is enough for about {_people(fit)} at once: {_text(free)} are free, the session needs "
        f"{_text(fixed)}, and {_text(each)} for each peer's contribution."
    )


def _people(count: int) -> str:
    return "1 peer" if count == 1 else f"{count} peers"


def _text(size: int) -> str:
    """With as many digits as an estimate is worth."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6)):
        if size >= bytes_:
            return f"{size / bytes_:.{1 if size < 10 * bytes_ else 0}f} {unit}"
    return f"{-(-size // 1000)} kB"
