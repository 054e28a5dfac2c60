"""Memory: what this machine has, and what it takes to hold a session's shards."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil

from ..optim.slices import slot_names
from ..protocol.layout import Layout, Stream
from ..protocol.rules import LOSSLESS, RoundRule
from ..protocol.sizes import encoded_bytes
from .carried import packet_codecs
from .outgoing import contribution_bytes
from .vector import storage_dtype

_CGROUPS = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Bytes that are free now, and bytes that there are."""

    free: int
    total: int


def machine_memory() -> Memory:
    """Of the machine, or of what a container lets this process have of it."""
    machine = psutil.virtual_memory()
    limit, used = container_memory()
    return Memory(min(machine.available, max(limit - used, 0)), min(machine.total, limit))


def container_memory(root: Path = _CGROUPS) -> tuple[int, int]:
    """(limit, used) in bytes of the control group, version 2 or 1, that this process is in; no limit is a large one."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            text = (root / limit).read_text().strip()
            in_use = int((root / used).read_text())
            rows = dict(line.split() for line in (root / cache).read_text().splitlines())
        except (OSError, ValueError):
            continue
        # Files that are cached make room when memory is asked for.
        in_use -= int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
        return (1 << 62 if text == "max" else int(text)), max(in_use, 0)
    return 1 << 62, 0


def packet_bytes(layout: Layout, rule: RoundRule) -> int:
    """Bytes of the packets that lead from one version to the next, at most."""
    return sum(encoded_bytes(codec, _elements(layout, section)) for section, codec in packet_codecs(rule).items())


def server_bytes(layout: Layout, rule: RoundRule) -> tuple[int, int]:
    """Bytes that a server needs at most to hold a whole session: whoever is there, and for each peer's contribution.

    The version that stands and the one that is being made, each with the optimizer's state and, where packets lose
    digits, view beside master; the packets between them; a copy of one of both that goes to disk, and of the view for
    joiners; and twice the view for what is read when the session opens, and what the allocator keeps of it.
    """
    codecs = packet_codecs(rule)
    held = copied = joiners = 0
    for section in layout.sections:
        vector = _elements(layout, section) * storage_dtype(section).itemsize
        slots = len(slot_names(rule.optimizer)) if section == Stream.PARAMETERS else 0
        # The session may come to choose a codec that loses digits.
        chosen = rule.auto and section == Stream.PARAMETERS
        lossy = section in codecs and (chosen or codecs[section] not in LOSSLESS)
        side = vector * (1 + slots + lossy)
        held += 2 * side if section in codecs else side
        copied += side
        joiners += vector
    return held + packet_bytes(layout, rule) + copied + 3 * joiners, _largest_contribution(layout, rule)


def _elements(layout: Layout, section: Stream) -> int:
    start, stop = layout.sections[section]
    return stop - start


def _largest_contribution(layout: Layout, rule: RoundRule) -> int:
    # Sophia's rounds with a Hessian estimate are the first one and every so many after it.
    return contribution_bytes(layout, rule, rule.begins)
