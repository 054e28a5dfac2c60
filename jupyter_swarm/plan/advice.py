"""What would help: the same session with one thing changed, by how much more of the time its peers would compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from msgspec.structs import replace

from ..decisions.links import with_codecs
from ..protocol.layout import Stream
from ..protocol.rules import Codec, RoundRule, steps_of
from ..protocol.sizes import encoded_bytes
from .formulas import Round, round_of
from .scenario import Link, Scenario

_LEAST_GAIN = 0.01
_SHOWN = 6
_STEPS = (2, 4)
_FASTER_SERVER = 10
_A_BLOCK = 1 << 16


class Advice(msgspec.Struct, frozen=True):
    """what: the change, as one would ask for it. after: the round then."""

    what: str
    before: Round
    after: Round

    def __str__(self) -> str:
        faster = self.after.speed / self.before.speed
        return (
            f"{self.what}: share of time computing {self.before.share:.0%} -> {self.after.share:.0%}, "
            f"{faster:.2g} times the samples a second"
        )


def advice(scenario: Scenario, others: Iterable[tuple[str, RoundRule]] = ()) -> list[Advice]:
    """What would let peers compute more of the time, the most first. others: strategies to try, and their names."""
    before = round_of(scenario)
    changes = [*_codecs(scenario), *_work(scenario), *_servers(scenario), *_grants(scenario, before)]
    changes += [(f"strategy {name}", replace(scenario, rule=rule)) for name, rule in others]
    found = [Advice(what, before, round_of(changed)) for what, changed in changes]
    helpful = [one for one in found if one.after.share - before.share >= _LEAST_GAIN]
    return sorted(helpful, key=lambda one: -one.after.share)[:_SHOWN]


def _codecs(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """Fewer bytes for each number, in whichever direction a codec has fewer; the largest numbers only, where peers send
    no others either."""
    gradient = scenario.rule.stream(Stream.GRADIENT)
    sparse = (Codec.TOPK,) if gradient.up == Codec.TOPK else ()
    for codec in (Codec.INT8, Codec.INT4, *sparse):
        up, down = (min(now, codec, key=_size) for now in (gradient.up, gradient.down))
        ways = [way for way, now, new in (("up", gradient.up, up), ("down", gradient.down, down)) if now != new]
        if ways:
            changed = replace(scenario, rule=with_codecs(scenario.rule, up, down))
            yield f"send {codec.name.lower()} {' and '.join(ways)}", changed


def _size(codec: Codec) -> int:
    return encoded_bytes(codec, _A_BLOCK)


def _work(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """More steps, or more samples, between two exchanges."""
    rule, settings = scenario.rule, scenario.settings
    for times in _STEPS:
        if rule.work == "steps":
            said = steps_of(rule, settings) * rule.fragments
            changed = replace(scenario, settings=replace(settings, inner_steps=times * said))
            yield f"{times * said} inner steps instead of {said}", changed
        else:
            now = settings.target_batch or rule.target_batch
            changed = replace(scenario, settings=replace(settings, target_batch=times * now))
            yield f"a batch of {times * now} instead of {now}", changed


def _grants(scenario: Scenario, now: Round) -> Iterator[tuple[str, Scenario]]:
    """All uploads at once, where some wait for their turn."""
    needed = len(scenario.peers) * now.traffic.up
    if needed > scenario.settings.upload_bytes:
        settings = replace(scenario.settings, upload_bytes=needed)
        yield f"set upload_bytes={needed}, so that all send at once", replace(scenario, settings=settings)


def _servers(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """More of the link that all share, or fewer who share it."""
    server, peers = scenario.server, scenario.peers
    faster = Link(_FASTER_SERVER * server.up, _FASTER_SERVER * server.down)
    yield f"a server with a {_FASTER_SERVER} times faster link", replace(scenario, server=faster)
    # What it holds travels over its own link, so that each of the two carries half.
    twice = Link(2 * server.up, 2 * server.down)
    yield (
        "a second holder, with a link as fast as the server's, for half of the shards",
        replace(scenario, server=twice),
    )
    if len(peers) > 1:
        half = peers[: (len(peers) + 1) // 2]
        yield f"{len(half)} peers instead of {len(peers)} at this server", replace(scenario, peers=half)
