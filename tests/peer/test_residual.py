"""What becomes of each contribution decides what a peer still has to send."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jupyter_swarm.peer.residual import Residual
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import SGD, Codec
from jupyter_swarm.shards.codecs import decode
from jupyter_swarm.shards.feedback import Encoded, ErrorFeedback
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import LocalUpdates, SparseLocalUpdates

LAYOUT = layout_of(nn.Linear(63, 2))
SPARSE = SparseLocalUpdates(steps=4, batch=3, feedback=1.0).rule(SGD(0.1))
EXACT = SparseLocalUpdates(steps=4, batch=3, feedback=1.0, up=Codec.FP32).rule(SGD(0.1))


def vector(value: float) -> FlatVector:
    made = FlatVector(LAYOUT)
    made.sections[Stream.PARAMETERS].fill_(value)
    return made


def send(residual: Residual, value: float, base: int) -> Encoded:
    encoded = residual.encode(vector(value), SPARSE, base)
    assert encoded is not None
    return encoded


def left(residual: Residual, base: int) -> float:
    """The sum of what is still to be sent."""
    encoded = residual.encode(vector(0.0), EXACT, base)
    assert encoded is not None
    (payload,) = encoded.payloads.values()
    out = torch.zeros(128)
    decode(Codec.FP32, payload, out)
    return float(out.sum())


def test_what_counts_is_gone_and_all_else_is_left() -> None:
    residual = Residual(ErrorFeedback(LAYOUT))
    residual.accepted(1, send(residual, 1.0, 0))
    residual.stands_at(1)
    assert left(residual, 1) == 126, "two of 128 were sent"


@pytest.mark.parametrize("way", ["dropped", "aborted", "another generation"])
def test_what_does_not_count_is_sent_again(way: str) -> None:
    residual = Residual(ErrorFeedback(LAYOUT))
    encoded = send(residual, 1.0, 0)
    if way == "dropped":
        residual.lost(encoded)
    else:
        residual.accepted(1, encoded)
        residual.stands_at(0, others_count=False)
    assert left(residual, 1) == 128


def test_of_two_that_are_accepted_the_committed_one_counts() -> None:
    residual = Residual(ErrorFeedback(LAYOUT))
    residual.accepted(1, send(residual, 1.0, 0))
    residual.accepted(2, send(residual, 1.0, 0))
    residual.stands_at(1, others_count=False)
    assert left(residual, 2) == 254
    residual.stands_at(2, others_count=False)
    assert left(residual, 3) == 0, "nothing is put back twice"


def test_a_rule_without_feedback_forgets_all() -> None:
    residual = Residual(ErrorFeedback(LAYOUT))
    residual.accepted(1, send(residual, 1.0, 0))
    assert residual.encode(vector(1.0), LocalUpdates(steps=4, batch=3).rule(SGD(0.1)), 1) is None
    residual.stands_at(0, others_count=False)
    assert left(residual, 2) == 0
