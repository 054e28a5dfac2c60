"""Memory of this machine: what is free, what a piece of work takes at most, what a peer needs for its vectors."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

from ..optim.slices import slot_names
from ..protocol.layout import Layout
from ..protocol.rules import RoundRule, Sophia
from ..shards.memory import Memory, machine_memory, packet_bytes

_SAMPLE_SECONDS = 0.002


def memory_of(device: torch.device) -> Memory:
    """Of the GPU; of the machine, or of what a container lets this process have of it, where there is none."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # What torch keeps for later is ours to use.
        return Memory(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total)
    return machine_memory()


class Peak:
    """`bytes`, after the block: what was taken at most beyond what was in use at its beginning.

    On CUDA the allocator's own count; elsewhere the resident memory of the process, looked at every 2 ms, so that a
    shorter peak is missed, and what fits into memory that was freed but kept (`link.memory`).
    """

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._device = device
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="swarm-memory", daemon=True)

    def __enter__(self) -> Peak:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._before = self._process.memory_info().rss
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self._see(torch.cuda.max_memory_allocated(self._device))
        else:
            self._done.set()
            self._thread.join()
            self._see(self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self._see(self._process.memory_info().rss)

    def _see(self, in_use: int) -> None:
        self.bytes = max(self.bytes, in_use - self._before)


def peer_bytes(layout: Layout, rule: RoundRule) -> tuple[int, int]:
    """Bytes that a peer's vectors need beside its model and one set of gradients: where the model is, and on the CPU.

    Where the model is: a second set of gradients (the sum of those of earlier leases), or the inner optimizer's
    moments; what Sophia estimates; a contribution that is sent while steps go on (any other is the first set of
    gradients); what error feedback keeps. On the CPU: the view, what is late, and the packets of the next version.
    """
    parameters, everything = 4 * layout.parameters, 4 * layout.elements
    if rule.contribution == "gradient_sum":
        vectors = 3 if isinstance(rule.optimizer, Sophia) else 1
    else:
        vectors = len(slot_names(rule.inner_optimizer)) if rule.inner_optimizer is not None else 0
    late = parameters if rule.staleness else 0
    sent = parameters if rule.overlap else 0
    kept = parameters if any(stream.feedback for stream in rule.streams) else 0
    return vectors * parameters + sent + kept, everything + late + packet_bytes(layout, rule)
