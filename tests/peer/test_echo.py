"""What a round costs on a link, in words."""

from __future__ import annotations

from jupyter_swarm.peer.echo import Speed, estimate
from jupyter_swarm.protocol.rules import SGD, AdamW, Codec
from jupyter_swarm.strategies import EveryStep, LocalUpdates


def test_a_slow_link_gets_advice_for_what_it_does() -> None:
    million = 1_000_000
    eight_bits = LocalUpdates(50, 8, up=Codec.INT8, down=Codec.INT8)
    fast = estimate(EveryStep(8).rule(SGD(0.1)), million, Speed(0.001, 1e9, 1e9))
    slow = estimate(EveryStep(8).rule(SGD(0.1)), million, Speed(0.1, 1e6, 1e6))
    local = estimate(eight_bits.rule(AdamW(1e-3)), million, Speed(0.1, 1e5, 1e5))
    assert fast[1] == ""
    assert "8.2 s" in slow[0]
    assert "LocalUpdates" in slow[1]
    assert "INT8" in slow[1]
    assert "once in 50 steps" in local[0]
    assert "LocalUpdates" not in local[1]
    assert "INT8" not in local[1]
