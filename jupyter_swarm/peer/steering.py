"""What a running session can be told: settings by the names that people type, and strategies."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..protocol.checks import changed_settings, check_rule, check_seed, check_settings
from ..protocol.errors import SessionError, SettingError
from ..protocol.rules import OptimizerRule, RoundRule, SessionSettings, SessionSpec
from ..strategies import EveryStep, LocalUpdates, SparseLocalUpdates, Strategy, StreamingLocalUpdates, WarmStart

ALIASES = {"lr": "learning_rate", "steps": "inner_steps", "batch": "target_batch"}
SETTINGS = tuple(name for name in SessionSettings.__struct_fields__ if name != "seed")
STRATEGIES: dict[str, type[EveryStep] | type[LocalUpdates]] = {
    "local": LocalUpdates,
    "sparse": SparseLocalUpdates,
    "streaming": StreamingLocalUpdates,
    "every_step": EveryStep,
}
"""The names that people type."""
_STEPS = 50


def settings_of(changes: Mapping[str, Any], current: SessionSettings, samples: int) -> dict[str, Any]:
    """`changes` with the settings' own names, checked. Raises `SettingError`: unknown, of the wrong kind, out of range.

    samples: of the session's training data.
    """
    new = changed(current, changes)
    check_seed(new, current)
    check_settings(new, samples)
    return {name: getattr(new, name) for name in (ALIASES.get(name, name) for name in changes)}


def changed(current: SessionSettings, changes: Mapping[str, Any]) -> SessionSettings:
    """`current` with `changes`, by full or short names. Raises `SettingError`: unknown, twice, of the wrong kind."""
    named: dict[str, Any] = {}
    for name, value in changes.items():
        full = ALIASES.get(name, name)
        if full not in SessionSettings.__struct_fields__:
            raise _unknown(name)
        if full in named:
            raise SettingError(f"{full} is set twice.", todo=f"Say {full} or its short name, not both.")
        named[full] = value
    return changed_settings(current, named)


def _unknown(name: str) -> SettingError:
    near = difflib.get_close_matches(name, {*SETTINGS, *ALIASES, "strategy"} - {name}, n=2)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return SettingError(f"There is no setting {name!r}.", todo=f"{meant}The settings are: {', '.join(SETTINGS)}.")


def id_of(peer: str, members: Iterable[Mapping[str, Any]]) -> str:
    """The id of the peer that has this id or is shown by this name, among all who have ever been in the session. Raises
    `SessionError` unless it is one."""
    peers = [member for member in members if member["role"] == "peer"]
    if any(member["member"] == peer for member in peers):
        return peer
    found = [str(member["member"]) for member in peers if member["name"] == peer]
    if len(found) == 1:
        return found[0]
    if found:
        raise SessionError(f"Several peers are called {peer!r}.", todo=f"Say which one by its id: {', '.join(found)}.")
    near = difflib.get_close_matches(peer, [str(member["name"]) for member in peers], n=1)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    raise SessionError(f"The session has no peer {peer!r}.", todo=f"{meant}peers() lists those who are there.")


def rule_for(
    strategy: Strategy | str, changes: Mapping[str, Any], spec: SessionSpec, optimizer: OptimizerRule, predictions: int
) -> RoundRule:
    """The rule that `strategy` means for a session. Raises `SettingError`.

    A strategy's name ("local", "sparse", …) means what the session has said of it before, or else its defaults;
    `inner_steps` and `target_batch` among the `changes` are then its own. optimizer, predictions: the recipe's.
    """
    if isinstance(strategy, WarmStart):
        raise SettingError(
            "A session that runs cannot warm up again.", todo="Set strategy=EveryStep(…) now and LocalUpdates(…) later."
        )
    if isinstance(strategy, str):
        rule = _named(strategy, changes, spec, optimizer, predictions)
    else:
        rule = strategy.rule(optimizer, predictions)
    check_rule(rule, changed(spec.settings, changes), spec.samples)
    return rule


def strategy_of(name: str) -> type[EveryStep] | type[LocalUpdates]:
    """The strategy that people call so. Raises `SettingError`."""
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise SettingError(f"There is no strategy {name!r}.", todo=f"{meant}Choose one of {', '.join(STRATEGIES)}.")
    return STRATEGIES[name]


def _named(
    name: str, changes: Mapping[str, Any], spec: SessionSpec, optimizer: OptimizerRule, predictions: int
) -> RoundRule:
    kind = strategy_of(name)
    rules = [spec.rule, *(change.rule for change in spec.changes)]
    steps, batch = changes.get("inner_steps"), changes.get("target_batch")
    for rule in reversed(rules):
        if rule.strategy == kind.__name__:
            field = "target_batch" if kind is EveryStep else "inner_batch"
            each = max(steps // rule.fragments, 1) if steps else rule.inner_steps
            return msgspec.structs.replace(rule, inner_steps=each, **{field: batch or getattr(rule, field)})
    if issubclass(kind, EveryStep):
        return kind(target_batch=batch or rules[-1].inner_batch).rule(optimizer, predictions)
    batch = batch or min(rules[-1].target_batch, spec.samples)
    return kind(steps=steps or _STEPS, batch=batch).rule(optimizer, predictions)
