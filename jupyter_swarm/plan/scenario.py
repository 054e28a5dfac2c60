"""What a session would run on: the machines, their links, the model, the rule."""

from __future__ import annotations

import math

import msgspec

from ..protocol.errors import SettingError
from ..protocol.layout import Stream
from ..protocol.rules import Codec, RoundRule, SessionSettings

MOST_PEERS = 1_000_000


class Link(msgspec.Struct, frozen=True):
    """Bytes a second up (away from the machine) and down."""

    up: float
    down: float


class Machine(msgspec.Struct, frozen=True):
    """One peer: samples a second, and its link."""

    speed: float
    link: Link


_OF_A_MERGE = {
    Codec.FP32: 8.2e9, Codec.FP16: 4.4e9, Codec.BF16: 3.9e9, Codec.INT8: 2.8e9, Codec.INT4: 1.7e9, Codec.TOPK: 2.9e9,
}  # fmt: skip
"""Bytes of fp32 numbers a second that one core adds up: `tests.benchmarks.codecs`, November 2026, 2 virtual cores."""
_OF_ENCODING = {
    Codec.FP32: 4.0e9, Codec.FP16: 4.0e9, Codec.BF16: 9.2e9, Codec.INT8: 1.3e9, Codec.INT4: 0.82e9, Codec.TOPK: 0.28e9,
}  # fmt: skip
"""The same of what a peer encodes and sends, or the server."""
_OF_THE_REST = 1e9
"""The same of what a peer does besides: norms, applying packets, loading its model, digests."""


class Scenario(msgspec.Struct, frozen=True):
    """A session that could be.

    parameters: trained numbers of the model. peers: one machine each. server: the link of the Jupyter server, which
    receives from all peers and sends to all. trip: seconds of a message there and back. recording: seconds that a
    round's record takes to be on disk.
    """

    rule: RoundRule
    parameters: int
    peers: tuple[Machine, ...]
    server: Link
    trip: float = 0.03
    settings: SessionSettings = SessionSettings()
    recording: float = 0.01

    @property
    def handling_seconds(self) -> float:
        """What a peer is busy with in a round besides its steps."""
        return self._exchanged * (1 / _OF_THE_REST + 1 / _OF_ENCODING[self.rule.stream(Stream.GRADIENT).up])

    def merging_seconds(self, contributions: int) -> float:
        """From the last contribution until the packets are ready."""
        gradient = self.rule.stream(Stream.GRADIENT)
        return self._exchanged * (contributions / _OF_A_MERGE[gradient.up] + 1 / _OF_ENCODING[gradient.down])

    @property
    def _exchanged(self) -> float:
        """Bytes of fp32 numbers."""
        return 4 * self.parameters / self.rule.fragments


def check(scenario: Scenario) -> None:
    """Raises `SettingError` for what cannot be: nobody, nothing to learn, links that carry nothing."""
    if not 0 < len(scenario.peers) <= MOST_PEERS:
        raise SettingError(f"{len(scenario.peers)} peers.", todo=f"Choose 1 to {MOST_PEERS:,} peers.")
    if scenario.parameters < 1:
        raise SettingError(f"A model of {scenario.parameters} parameters.", todo="Choose 1 or more, as in 124M.")
    rates = {machine.link for machine in scenario.peers} | {scenario.server}
    for name, values in {
        "A link's rate": [rate for link in rates for rate in (link.up, link.down)],
        "A peer's speed": [machine.speed for machine in scenario.peers],
    }.items():
        if not all(0 < value < math.inf for value in values):
            raise SettingError(f"{name} is {min(values):g}.", todo="Choose a number above 0.")
    if not 0 <= scenario.trip < math.inf:
        raise SettingError(f"The round trip is {scenario.trip:g} s.", todo="Choose 0 or more.")
