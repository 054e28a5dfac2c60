"""What people want of a running session: to pause, go on, end, to go on by other settings or another strategy, and what
the instructor wants of single peers.

Settings and strategies are stored before they hold: a restart replays each round with the rule that it was made by, and
what the disk refuses changes nothing. `by` says in words who wants it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ..decisions.effects import SetCodecs
from ..decisions.events import Change, ChangeStrategy, Finish, Pause, Resume, SteerPeer
from ..decisions.links import with_choice
from ..protocol.checks import changed_settings, check_rule, check_seed, check_spec
from ..protocol.errors import SettingError, VersionMismatch
from ..protocol.rules import RoundRule, SessionSettings, StrategyChange
from ..protocol.standing import SteerAction
from ..shards.carried import check_streams
from ..store.rows import Member
from .members import check_knowledge
from .refusals import SessionEnded

if TYPE_CHECKING:
    from .session import SessionRuntime


class StrategyChanged(msgspec.Struct, frozen=True):
    """The new rule holds from `round` on. `changes`: all that there are now; `dropped`: those that it replaces, which
    were to come in that round or later."""

    round: int
    changes: tuple[StrategyChange, ...]
    dropped: tuple[StrategyChange, ...]


class Steering:
    """All of it for one session. Changes are made one after the other: each begins from what the one before left."""

    def __init__(self, session: SessionRuntime) -> None:
        self.session = session
        self._changing = asyncio.Lock()

    def pause(self, by: str) -> None:
        """Stop handing out work."""
        self.session.handle(Pause(by))
        self.session.publish_status()

    def resume(self, by: str) -> None:
        """Go on."""
        self.session.handle(Resume(by))
        self.session.publish_status()

    def finish(self, by: str) -> None:
        """End the session after the round under way."""
        self.session.handle(Finish(by))
        self.session.publish_status()

    def steered(self, member: Member, action: SteerAction) -> None:
        """The instructor has decided something about a member, which is stored."""
        old_name, attached = self.session.members.steered(member)
        if member.standing.removed:
            if attached is not None:
                self.session.reception.remove(attached)
        else:
            self.session.handle(SteerPeer(member.member, action, member.standing, member.shown, old_name))
        self.session.publish_status()

    async def change_settings(self, changes: Mapping[str, Any], by: str) -> SessionSettings:
        """Other settings, by name, from the next round on; returns all of them. Raises `SettingError`, `SessionEnded`,
        `StoreError`."""
        session, store = self.session, self.session.store
        async with self._changing:
            self._check_running()
            spec = session.spec_now()
            settings = changed_settings(spec.settings, changes)
            check_seed(settings, spec.settings)
            check_spec(msgspec.structs.replace(spec, settings=settings))
            await store.run_in_store(store.database.change_spec, spec.session, settings)
            session.handle(Change(settings, by))
        return settings

    async def change_strategy(self, rule: RoundRule, by: str, round: int | None) -> StrategyChanged:
        """Let `rule` hold from `round` on, or from the next one. Raises `SettingError`, `SessionEnded`, `StoreError`.

        A round that begins while the change is stored keeps the rule it began with.
        """
        session, store = self.session, self.session.store
        async with self._changing:
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
            old, first = spec.changes, 0
            while first <= session.state.round.number:
                self._check_running()
                first = max(round or 0, session.state.round.number + 1)
                kept = tuple(change for change in old if change.round < first)
                changes = (*kept, StrategyChange(first, rule))
                await store.run_in_store(store.database.change_spec, spec.session, None, changes)
            self._hold(changes, by)
        dropped = old[len(kept) :]
        if dropped:
            gone = ", ".join(f"{change.rule.strategy} from round {change.round} on" for change in dropped)
            session.note("info", f"That replaces what was to come: {gone}.")
        return StrategyChanged(first, changes, dropped)

    async def set_codecs(self, wanted: SetCodecs) -> None:
        """Let the session's own choice of codecs hold from the next round on, unless a person has changed the strategy
        meanwhile. Raises `StoreError`."""
        session, store = self.session, self.session.store
        async with self._changing:
            spec = session.spec_now()
            first, changes = 0, spec.changes
            while first <= session.state.round.number:
                first = session.state.round.number + 1
                over = session.state.phase in ("finishing", "finished")
                chosen = None if over else with_choice(spec.rule, spec.changes, first, wanted)
                if chosen is None and changes == spec.changes:
                    return
                changes = chosen or spec.changes
                await store.run_in_store(store.database.change_spec, spec.session, None, changes)
            self._hold(changes, by="")

    def _hold(self, changes: tuple[StrategyChange, ...], by: str) -> None:
        """The changes are stored: members that cannot follow them are sent away, the others are told."""
        session = self.session
        spec = session.numbers.spec = msgspec.structs.replace(session.numbers.spec, changes=changes)
        for attached in list(session.members.connected.values()):
            try:
                check_knowledge(attached.hello, spec)
            except VersionMismatch as error:
                session.reception.send_away(attached, error)
        session.handle(ChangeStrategy(changes, by))

    def _check_running(self) -> None:
        if self.session.state.phase in ("finishing", "finished"):
            raise SessionEnded(self.session.spec.session)
