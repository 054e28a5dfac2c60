"""Measured links, and the codecs that a session chooses by them.

Rates are what the server has seen arrive, by its own clock, never what a peer says of itself. A rule with `auto` leaves
the gradient's codecs to the session: each way the most exact one whose transfers take little of a round. It decides
between rounds, changes its mind slowly, and says why.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ..protocol.layout import Stream
from ..protocol.records import RoundRecord
from ..protocol.rules import Codec, RoundRule, StrategyChange, StreamRule, rule_of
from ..protocol.sizes import framed_bytes
from .effects import Effect, SetCodecs
from .events import Measured
from .rates import Choosing
from .state import Contribution, Peer, State

SHARE = 0.05
"""Communication may take so much of a round, half of it each way."""
LEAST_SECONDS = 0.02
"""Transfers that take less are not worth a digit: what such a round waits for is messages, not bytes."""
BACK = 0.5
"""To return to a more exact codec, its transfers must take less than this share of what they may take."""
PATIENCE = 3
"""So many rounds in a row must say the same before a choice is changed."""
QUANTILE = 0.25
"""The link that is chosen for: as slow as this share of the peers'. The slowest must not cost everybody digits."""
ASSUMED_UPLOAD_RATE = 1e6
"""Bytes per second that a peer's first upload is assumed to reach at most (8 Mbit/s)."""
_COMPUTE_MEMORY = 0.7
_LADDERS = {
    # Sums of many samples' gradients may be larger than FP16's largest number.
    "gradient_sum": (Codec.FP32, Codec.BF16, Codec.INT8, Codec.INT4),
    "pseudo_gradient": (Codec.FP32, Codec.FP16, Codec.INT8, Codec.INT4),
}


# --- measuring


def measured(state: State, event: Measured) -> None:
    """The server has seen something of a peer's link."""
    peer = state.peers.get(event.member)
    if peer is None:
        return
    link, choosing = peer.link, state.choosing
    if event.what == "round trip":
        link.round_trip = event.seconds
    elif event.what == "up":
        link.up.add(event.bytes, event.seconds)
        choosing.up.add(event.bytes, event.seconds)
    else:
        link.down.add(event.bytes, event.seconds)
        choosing.down.add(event.bytes, event.seconds)


def pace(state: State, contribution: Contribution) -> float:
    """Bytes per second that an upload may be expected to make while the others that are granted are under way."""
    peer = state.peers[contribution.peer]
    # A few bytes through an idle link must not shorten the time that a first upload gets.
    own = peer.upload_rate or min(peer.link.up.rate or ASSUMED_UPLOAD_RATE, ASSUMED_UPLOAD_RATE)
    shared, under_way = state.choosing.up.rate, state.round.uploading
    return min(own, shared * contribution.bytes / under_way) if shared and under_way > contribution.bytes else own


def paced(peer: Peer, contribution: Contribution, now: float) -> None:
    """An upload is all there. A faster one than before is believed by half: the next may have others beside it."""
    rate = contribution.bytes / max(now - contribution.granted_at, 1e-3)
    peer.upload_rate = rate if rate < peer.upload_rate or not peer.upload_rate else (rate + peer.upload_rate) / 2


# --- choosing


class Way(NamedTuple):
    """One direction: bytes/s of the link that is chosen for, of the server's link for all (0: not known), and how many
    peers share that."""

    name: str
    rate: float
    shared: float
    peers: int

    @property
    def share_of_server(self) -> float:
        """Bytes/s that the server's link leaves to each peer; infinite where nothing says that it limits."""
        return self.shared / self.peers if self.shared and self.peers > 1 else float("inf")

    def seconds(self, count: int) -> float:
        """How long `count` bytes of each peer take."""
        return count / max(min(self.rate, self.share_of_server), 1e-9)

    def words(self) -> str:
        """The rate that counts, for people."""
        shared = self.share_of_server < self.rate
        by = f", the server's link shared by {self.peers}" if shared else ""
        return f"{mbit_text(min(self.rate, self.share_of_server))}{by}"


class Choice(NamedTuple):
    """A codec for one direction and the reason in words."""

    codec: Codec
    reason: str


def mbit_text(rate: float) -> str:
    """Bytes/s as people say it of a link."""
    return f"{8e-6 * rate:,.3g} Mbit/s" if rate < 1.25e8 else f"{8e-9 * rate:,.3g} Gbit/s"


def ladder_of(rule: RoundRule, known: Iterable[frozenset[int]]) -> tuple[Codec, ...]:
    """The codecs that may be chosen for a rule, the most exact first: of those that everybody knows."""
    sets = list(known)
    return tuple(codec for codec in _LADDERS[rule.contribution] if all(codec in one for one in sets))


def choose(way: Way, ladder: tuple[Codec, ...], elements: int, compute: float, current: Codec) -> Choice:
    """The most exact codec of `ladder` whose transfers take at most half of `SHARE` of a round that computes for
    `compute` seconds; the last one if none does. More exact than `current` only if there is room to spare."""
    taken = {codec: way.seconds(framed_bytes(codec, elements)) for codec in ladder}
    now_at = ladder.index(current) if current in ladder else 0

    def fits(place: int) -> bool:
        factor = BACK if place < now_at else 1.0
        seconds = taken[ladder[place]]
        return seconds <= factor * LEAST_SECONDS or _share(seconds, compute) <= factor * SHARE / 2

    place = next((place for place in range(len(ladder)) if fits(place)), len(ladder) - 1)
    name = f"{ladder[place].name.lower()} {way.name}"
    own = f"{100 * _share(taken[ladder[place]], compute):.2g} % of a round at {way.words()}"
    if place == 0:
        return Choice(ladder[0], f"{name}: {own}")
    finer = ladder[place - 1]
    would = f"{finer.name.lower()} would take {100 * _share(taken[finer], compute):.2g} % of a round at {way.words()}"
    still = "" if fits(place) else f", and this still takes {100 * _share(taken[ladder[place]], compute):.2g} %"
    return Choice(ladder[place], f"{name}: {would}{still}")


def _share(seconds: float, compute: float) -> float:
    return seconds / (seconds + compute) if seconds else 0.0


def low(rates: list[float]) -> float:
    """The rate that all but the slowest few of the peers reach; 0.0 without any."""
    ordered = sorted(rates)
    return ordered[int(QUANTILE * (len(ordered) - 1))] if ordered else 0.0


def after_commit(state: State, record: RoundRecord) -> list[Effect]:
    """A round is committed: what it tells of the links, and whether other codecs should hold from now on."""
    choosing = state.choosing
    if choosing.strategy != record.strategy:
        state.choosing = choosing = Choosing(record.strategy, up=choosing.up, down=choosing.down)
    choosing.up.close(state.crowd.active)
    choosing.down.close(state.crowd.active)
    computed = statistics.median([one.seconds for one in record.contributors] or [0.0])
    old = choosing.compute or computed
    choosing.compute = _COMPUTE_MEMORY * old + (1 - _COMPUTE_MEMORY) * computed
    rule = state.rule_of(record.round + 1)
    if not rule.auto or rule.strategy != record.strategy:
        return []
    found = _choices(state, rule)
    if found is None:
        return []
    choosing.words = "; ".join(one.reason for one in found)
    wanted = found[0].codec, found[1].codec
    stream = rule.stream(Stream.GRADIENT)
    choosing.times = choosing.times + 1 if wanted == choosing.wanted else 1
    choosing.wanted, first, choosing.settled = wanted, not choosing.settled, True
    if wanted == (stream.up, stream.down) or (choosing.times < PATIENCE and not first):
        return []
    return [SetCodecs(*wanted, choosing.words)]


def _choices(state: State, rule: RoundRule) -> tuple[Choice, Choice] | None:
    """Up and down, or None while a way is not measured."""
    choosing, peers, stream = state.choosing, state.active_peers(), rule.stream(Stream.GRADIENT)
    ladder = ladder_of(rule, (frozenset(peer.codecs) for peer in peers))
    up = Way("up", low([peer.link.up.rate for peer in peers if peer.link.up.rate]), choosing.up.rate, len(peers))
    down = Way("down", low([one.link.down.rate for one in peers if one.link.down.rate]), choosing.down.rate, len(peers))
    if not (up.rate and down.rate and state.elements and choosing.compute):
        return None
    return (
        choose(up, ladder, state.elements, choosing.compute, stream.up),
        choose(down, ladder, state.elements, choosing.compute, stream.down),
    )


def with_codecs(rule: RoundRule, up: Codec, down: Codec) -> RoundRule:
    """The rule with other codecs for what the gradient carries (a Hessian estimate travels up as the gradient does)."""

    def changed(one: StreamRule) -> StreamRule:
        if one.stream == Stream.GRADIENT:
            return msgspec.structs.replace(one, up=up, down=down)
        return msgspec.structs.replace(one, up=up) if one.stream == Stream.HESSIAN else one

    return msgspec.structs.replace(rule, streams=tuple(changed(one) for one in rule.streams))


def alike(one: RoundRule, other: RoundRule) -> bool:
    """Whether two rules differ in nothing but codecs and when they begin."""
    return msgspec.structs.replace(one, streams=other.streams, begins=other.begins) == other


def with_choice(
    first: RoundRule, changes: tuple[StrategyChange, ...], round: int, wanted: SetCodecs
) -> tuple[StrategyChange, ...] | None:
    """The changes with what is wanted from `round` on; None where a person has decided something for that round, or
    there is nothing to change. first: the rule of the first round."""
    rule = rule_of(first, changes, round)
    chosen = with_codecs(rule, wanted.up, wanted.down)
    by_hand = any(change.round == round and not change.reason for change in changes)
    if by_hand or not rule.auto or chosen == rule:
        return None
    kept = (change for change in changes if change.round != round)
    return tuple(sorted((*kept, StrategyChange(round, chosen, wanted.reason)), key=lambda change: change.round))


def codecs_text(rule: RoundRule) -> str:
    """What the gradient travels in, for people."""
    stream = rule.stream(Stream.GRADIENT)
    return f"{stream.up.name.lower()} up, {stream.down.name.lower()} down"


def reason_of(state: State, round: int) -> str:
    """Why the session has chosen the codecs of `round`; '' if it has not."""
    held = [change for change in state.changes if change.round <= round]
    return held[-1].reason if held else ""


def words(state: State) -> str:
    """Why the codecs of the round under way are as they are, as it looks now; '' if the session has not chosen them."""
    if not state.rule.auto:
        return ""
    return state.choosing.words or reason_of(state, state.round.number) or "auto: the links are being measured"
