"""What a round costs: bytes, seconds, the share of the time that peers compute.

    computing   the slowest peer's steps, or the peers' leases of the shared batch, as `decisions` hands them out
    messages    three there and back, and one more for each lease
    uploads     N contributions: each over its peer's uplink, all of them over the server's downlink
    merging     the server adds them up and steps, the record is written
    packets     the result to N peers: over the server's uplink, each over its peer's downlink
    handling    each peer packs its contribution, unpacks the result and loads it into its model

In a star the server's link carries N times what a peer's does. With `overlap` a peer makes the steps of the next round
while all but its handling goes on, so that a round takes the longer of the two.
"""

from __future__ import annotations

import heapq
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from ..decisions import leases, links, steps
from ..decisions.speed import weight
from ..decisions.state import Crowd, Peer, State, new_state
from ..protocol.layout import Stream
from ..protocol.rules import SGD, RoundRule, SessionSettings
from ..protocol.sizes import framed_bytes
from .scenario import Scenario, check

_MESSAGES = 3
"""There and back in a round, beside one for each lease: the commit and the wish for work, the call and the
announcement, the grant and the first byte."""
_MESSAGES_IN_STEP = 2
"""There and back between the last step of a round and the first of the next where steps go on: the end and the call,
the announcement and the next lease."""
_ALL = 0.95
"""Who computes for this share of the time is limited by nothing else."""


class Traffic(msgspec.Struct, frozen=True):
    """Bytes of one peer in a round, headers of frames included: of its contribution, and of the packets it gets."""

    up: int
    down: int


class Round(msgspec.Struct, frozen=True):
    """A round as the formulas see it.

    seconds: from commit to commit. phases: what they consist of, by the names in this module's docstring; with
    `overlap` these are more than the whole. computing: seconds in which the mean peer computes. samples: that count.
    limits: what the longest phase waits for, in words.
    """

    traffic: Traffic
    seconds: float
    phases: dict[str, float]
    computing: float
    samples: int
    limits: str

    @property
    def share(self) -> float:
        """Share of the time that peers compute, 0 to 1."""
        return self.computing / self.seconds

    @property
    def speed(self) -> float:
        """Samples a second of all peers together."""
        return self.samples / self.seconds


def settled(scenario: Scenario) -> tuple[Scenario, str]:
    """Where a rule leaves the codecs to the session: with those that it would choose by these links, and why."""
    rule, peers = scenario.rule, scenario.peers
    if not rule.auto:
        return scenario, ""
    check(scenario)
    computing = _computing(scenario)[0]["computing"]
    ladder, stream = links.ladder_of(rule, ()), rule.stream(Stream.GRADIENT)
    elements = scenario.parameters // rule.fragments
    up = links.Way("up", links.low([one.link.up for one in peers]), scenario.server.down, len(peers))
    down = links.Way("down", links.low([one.link.down for one in peers]), scenario.server.up, len(peers))
    sent = links.choose(up, ladder, elements, computing, stream.up)
    received = links.choose(down, ladder, elements, computing, stream.down)
    chosen = replace(links.with_codecs(rule, sent.codec, received.codec), auto=False)
    return replace(scenario, rule=chosen), f"{sent.reason}; {received.reason}"


def traffic_of(rule: RoundRule, parameters: int) -> Traffic:
    """What a peer sends and receives in a round of a model with so many parameters, without buffers."""
    gradient = rule.stream(Stream.GRADIENT)
    up, down = (framed_bytes(codec, parameters, rule.fragments) for codec in (gradient.up, gradient.down))
    return Traffic(up, down)


def round_of(scenario: Scenario) -> Round:
    """What one round of the scenario costs once all speeds are measured. Raises `SettingError`."""
    check(scenario)
    traffic = traffic_of(scenario.rule, scenario.parameters)
    phases, computing, samples, given = _computing(scenario)
    uploads, by_server_down = _uploads(scenario, traffic.up)
    packets, by_server_up = _packets(scenario, traffic.down)
    phases |= {
        "messages": (_MESSAGES + given) * scenario.trip,
        "uploads": uploads,
        "merging": scenario.merging_seconds(len(scenario.peers)) + scenario.recording,
        "packets": packets,
        "handling": scenario.handling_seconds,
    }
    seconds = sum(phases.values())
    if scenario.rule.overlap:
        busy = phases["computing"] + phases["handling"]
        seconds = max(busy + _MESSAGES_IN_STEP * scenario.trip, seconds - busy)
    limits = {
        "computing": "the peers' computing",
        "messages": "the messages' way there and back",
        "uploads": "the server's downlink" if by_server_down else f"the peers' uplinks{_granted(scenario, traffic.up)}",
        "merging": "the server's merging",
        "packets": "the server's uplink" if by_server_up else "the peers' downlinks",
        "handling": "the peers' packing and unpacking",
    }
    longest, second = sorted(phases, key=lambda name: -phases[name])[:2]
    beside = f", and then {limits[second]}" if longest == "computing" and computing < _ALL * seconds else ""
    return Round(traffic, seconds, phases, computing, samples, limits[longest] + beside)


def _granted(scenario: Scenario, size: int) -> str:
    at_once = uploads_at_once(scenario, size)
    return "" if at_once == len(scenario.peers) else f", {at_once} at once (upload_bytes)"


def _uploads(scenario: Scenario, size: int) -> tuple[float, bool]:
    """Seconds until the server has all contributions, and whether it is its link that takes so long."""
    rates = [machine.link.up for machine in scenario.peers]
    at_once = uploads_at_once(scenario, size)
    server = len(rates) * size / scenario.server.down
    peers = max(size / min(rates), sum(size / rate for rate in rates) / at_once)
    return max(server, peers), server >= peers


def uploads_at_once(scenario: Scenario, size: int) -> int:
    """How many uploads of so many bytes are granted at the same time."""
    return min(max(scenario.settings.upload_bytes // size, 1), len(scenario.peers))


def _packets(scenario: Scenario, size: int) -> tuple[float, bool]:
    """Seconds until all peers have the result, and whether it is the server's link that takes so long."""
    server = len(scenario.peers) * size / scenario.server.up
    peers = size / min(machine.link.down for machine in scenario.peers)
    return max(server, peers), server >= peers


def _computing(scenario: Scenario) -> tuple[dict[str, float], float, int, float]:
    """The phase; seconds that the mean peer computes, samples that count, leases one after the other."""
    speeds = tuple(machine.speed for machine in scenario.peers)
    if scenario.rule.work == "samples":
        target = scenario.settings.target_batch or scenario.rule.target_batch
        phase, busy, given = shared_batch(speeds, target, scenario.trip)
        return {"computing": phase}, busy, target, given
    made = own_steps(speeds, scenario.rule, scenario.settings)
    samples = [count * scenario.rule.inner_batch for count in made]
    seconds = [count / speed for count, speed in zip(samples, speeds, strict=True)]
    # Whoever is slow even at a single step is asked for what it has, and waited for no longer.
    most = scenario.rule.inner_batch * max(made) / max(speeds) + steps.LEAST_GRACE
    return {"computing": min(max(seconds), most)}, sum(seconds) / len(seconds), sum(samples), 1


def own_steps(speeds: tuple[float, ...], rule: RoundRule, settings: SessionSettings) -> list[int]:
    """How many inner steps each peer makes in a round."""
    state = _state(rule, settings, speeds)
    state.round.fastest = max(speeds)
    by_speed = {speed: steps.steps_for(state, _peer(speed)) for speed in set(speeds)}
    return [by_speed[speed] for speed in speeds]


def first_lease(scenario: Scenario) -> tuple[float, float]:
    """Seconds that the slowest peer takes for its first lease of steps, which is as large as the fastest one's because
    its speed is not known, and seconds after which the lease counts as lost."""
    state = _state(scenario.rule, scenario.settings, ())
    samples = state.inner_steps * scenario.rule.inner_batch
    slowest = min(machine.speed for machine in scenario.peers)
    return samples / slowest, leases.deadline(state, Peer("", ""), samples, 0.0)


@lru_cache(maxsize=64)
def shared_batch(speeds: tuple[float, ...], target: int, trip: float) -> tuple[float, float, float]:
    """A batch of `target` samples that peers lease in pieces, each of which takes a message there and back as well:
    seconds until the last sample is computed, less those messages; seconds that the mean peer computes; how many
    leases the last peer had."""
    state = _state(RoundRule("", SGD(0.0), target_batch=target), SessionSettings(), speeds)
    free, computed = target, [0.0] * len(speeds)
    given = [0] * len(speeds)
    turns = [(0.0, number) for number in range(len(speeds))]
    end, last = 0.0, 0
    while free:
        at, number = heapq.heappop(turns)
        size = leases.lease_size(state, _peer(speeds[number]), free, target)
        free -= size
        seconds = size / speeds[number]
        computed[number] += seconds
        given[number] += 1
        heapq.heappush(turns, (at + seconds + trip, number))
        if at + seconds + trip >= end:
            end, last = at + seconds + trip, number
    return end - given[last] * trip, sum(computed) / len(speeds), given[last]


def _state(rule: RoundRule, settings: SessionSettings, speeds: tuple[float, ...]) -> State:
    """As the decisions see a session whose peers are all here and measured."""
    state = new_state("", rule, settings, samples=1, held_out=0, shards=1)
    count = len(speeds)
    state.crowd = Crowd(count, count, count, sum(weight(speed) for speed in speeds))
    return state


def _peer(speed: float) -> Peer:
    return Peer("", "", synced=True, speed=speed)
