"""One strategy for the first rounds, another one after them."""

from __future__ import annotations

import msgspec

from .every_step import EveryStep
from .local_updates import LocalUpdates
from .sparse_local_updates import SparseLocalUpdates
from .streaming_local_updates import StreamingLocalUpdates


class WarmStart(msgspec.Struct, frozen=True):
    """`first` for so many `rounds`, then `then`.

    Local updates from random parameters lose against synchronous training; after a synchronous start they do not,
    because peers that start from a good common point stay close enough to be averaged (Lin et al., "Don't use large
    mini-batches, use local SGD", arXiv 1808.07217: post-local SGD).
    """

    first: EveryStep
    rounds: int
    then: LocalUpdates | SparseLocalUpdates | StreamingLocalUpdates
