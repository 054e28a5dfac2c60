"""What all peers share, as this peer has it."""

from __future__ import annotations

import threading

from torch import nn

from ..protocol.layout import Shard
from ..shards.incoming import PacketSet
from ..shards.vector import FlatVector


class View:
    """`vector` holds the numbers of `version`. -1: they are no version's, for the first snapshot is not here, or
    another one is on its way into them.

    The training thread changes it. `digest` and `copy_to` see it between two versions, from any thread.
    """

    def __init__(self, vector: FlatVector) -> None:
        self.vector = vector
        self.version = -1
        self._lock = threading.Lock()

    def set_version(self, version: int) -> None:
        """The vector is whole, or -1: from now on chunks of a snapshot may be written into it."""
        with self._lock:
            self.version = version

    def apply(self, packets: PacketSet) -> None:
        """Go on to the version that `packets` lead to."""
        with self._lock:
            packets.apply(self.vector)
            self.version = packets.round

    def digest(self) -> str:
        """SHA-256 of all of it; '' while it is no version."""
        with self._lock:
            return self.vector.digest_all() if self.version >= 0 else ""

    def shard_digest(self, shard: Shard) -> str:
        """SHA-256 of one shard. For the training thread."""
        return self.vector.digest(shard)

    def copy_to(self, model: nn.Module) -> bool:
        """Give it to `model`. False: it is no version."""
        with self._lock:
            if self.version < 0:
                return False
            self.vector.copy_to(model)
            return True
