"""Another strategy for a running session, from a later round on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..protocol.errors import SettingError
from ..protocol.rules import RoundRule, StrategyChange, check_rule
from ..shards.carried import check_streams
from .refusals import SessionEnded

if TYPE_CHECKING:
    from .session import SessionRuntime


class StrategyChanged(msgspec.Struct, frozen=True):
    """The new rule holds from `round` on. `changes`: all that there are now; `dropped`: those that it replaces, which
    were to come in that round or later."""

    round: int
    changes: tuple[StrategyChange, ...]
    dropped: tuple[StrategyChange, ...]


async def change_strategy(session: SessionRuntime, rule: RoundRule, by: str, round: int | None) -> StrategyChanged:
    """Let `rule` hold from `round` on, or from the next one. Raises `SettingError`, `SessionEnded`, `StoreError`.

    It is stored before it holds: a restart replays each round with the rule that it was made by. A round that begins
    meanwhile keeps the rule it began with.
    """
    spec = session.spec_now()
    under_way = session.state.round.number
    if round is not None and round <= under_way:
        raise SettingError(
            f"The strategy cannot change in round {round}.",
            f"Round {under_way} is under way.",
            f"Choose a round from {under_way + 1} on.",
        )
    check_rule(rule, spec.settings, spec.samples)
    check_streams(rule)
    while True:
        if session.state.phase in ("finishing", "finished"):
            raise SessionEnded(spec.session)
        old = session.state.changes
        first = max(round or 0, session.state.round.number + 1)
        kept = tuple(change for change in old if change.round < first)
        changes = (*kept, StrategyChange(first, rule))
        await session.store.run_in_store(session.store.database.change_spec, spec.session, None, changes)
        if session.state.round.number < first:
            break
    dropped = old[len(kept) :]
    session.use_changes(changes, by)
    if dropped:
        gone = ", ".join(f"{change.rule.strategy} from round {change.round} on" for change in dropped)
        session.note("info", f"That replaces what was to come: {gone}.")
    return StrategyChanged(first, changes, dropped)
