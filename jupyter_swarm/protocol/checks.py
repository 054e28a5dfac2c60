"""Whether a session with these rules and settings could be trained, said before anybody tries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .errors import SettingError
from .layout import Stream
from .limits import check_numbers
from .rules import RULE_VERSION, Codec, RoundRule, Schedule, SessionSettings, SessionSpec


def check_spec(spec: SessionSpec) -> None:
    """Raises `SettingError` for a session that could not make a single round."""
    if spec.samples < 1:
        raise SettingError(
            "The training data set is empty.",
            todo="Check what the recipe's data() returns: its `train` part must have at least one sample.",
        )
    if spec.held_out < 0:
        raise SettingError(f"The held-out part has {spec.held_out} samples.", todo="0 are the fewest.")
    check_settings(spec.settings, spec.samples)
    rounds = [change.round for change in spec.changes]
    if rounds != sorted(set(rounds)) or (rounds and rounds[0] < 2):
        raise SettingError(f"The strategy changes in rounds {rounds}.", todo="Name ascending rounds, from 2 on.")
    for rule in (spec.rule, *(change.rule for change in spec.changes)):
        check_rule(rule, spec.settings, spec.samples)


def check_rule(rule: RoundRule, settings: SessionSettings, samples: int) -> None:
    """Raises `SettingError` for a rule by which no round could be made."""
    if rule.version != RULE_VERSION:
        raise SettingError(f"The rule has format {rule.version}; this server reads format {RULE_VERSION}.")
    if rule.merging != "staged":
        raise SettingError(f"This version cannot merge {rule.merging!r} rounds.", todo="Choose merging='staged'.")
    _check_codecs(rule)
    check_numbers(rule)
    streams = [one.stream for one in rule.streams]
    if Stream.GRADIENT not in streams or len(set(streams)) < len(streams):
        raise SettingError("The rule's streams lack GRADIENT, or have one twice.")
    _check_schedule(rule.optimizer.schedule)
    if rule.inner_optimizer is not None:
        _check_schedule(rule.inner_optimizer.schedule)
    if rule.work == "samples":
        _check_target(settings.target_batch or rule.target_batch, samples)
    elif rule.inner_optimizer is None or rule.inner_batch < 1 or (settings.inner_steps or rule.inner_steps) < 1:
        raise SettingError(
            "The rule says no steps.", todo="Choose at least 1 step and a batch of at least 1 sample, and an optimizer."
        )
    if rule.inner_batch > samples:
        raise SettingError(
            f"A batch of {rule.inner_batch} samples, but the data set has only {samples}.",
            todo=f"Choose a batch of at most {samples}.",
        )
    of_steps = {rule.work == "steps", rule.contribution == "pseudo_gradient", rule.inner_optimizer is not None}
    if len(of_steps) > 1:
        raise SettingError(
            f"The work, contribution and inner optimizer of {rule.strategy} do not go together.",
            todo="Steps go with pseudo_gradient and an inner optimizer, samples with gradient_sum and none.",
        )
    if rule.work == "samples" and (rule.fragments > 1 or rule.overlap):
        raise SettingError(
            f"{rule.strategy} cannot exchange the parameters in parts, or while it computes.",
            "The gradients of a step are of all parameters as they are.",
            "Choose fragments=1 and overlap=False, or StreamingLocalUpdates.",
        )
    if rule.overlap and rule.fragments < 2:
        raise SettingError(
            "With overlap the parameters are exchanged in at least 2 parts.",
            "What is exchanged again before its last result is here would count twice.",
            "Choose fragments=2 or more, or LocalUpdates.",
        )
    if rule.overlap and rule.staleness:
        raise SettingError(
            "With overlap a contribution counts in its own round only.",
            "The next round exchanges other parameters; what is not sent now is sent when these are exchanged again.",
            "Choose staleness=0.",
        )
    gradient = rule.stream(Stream.GRADIENT)
    if rule.auto and (rule.fragments > 1 or rule.overlap or gradient.feedback):
        raise SettingError(
            f"The session cannot choose the codecs of {rule.strategy}.",
            "Its codec is part of how it learns, or its transfers hide behind its steps.",
            'Say codec="auto" to EveryStep or LocalUpdates only.',
        )


def _check_codecs(rule: RoundRule) -> None:
    known = [codec for codec in Codec if codec != Codec.INT64]  # which is for counters
    for one in rule.streams:
        for way, codec in (("up", one.up), ("down", one.down)):
            if not isinstance(codec, Codec) or (one.stream == Stream.GRADIENT and codec not in known):
                said = f"Codec.{codec.name}" if isinstance(codec, Codec) else repr(codec)
                todo = f"Choose one of {', '.join(f'Codec.{each.name}' for each in known)}."
                raise SettingError(f"{way} is {said}, by which no gradients can be sent.", todo=todo)


def is_auto(codec: str | None) -> bool:
    """Whether a strategy leaves its codecs to the session. Raises `SettingError` for anything but "auto" and None."""
    if codec not in ("auto", None):
        raise SettingError(
            f"The codec is {codec!r}.", todo='Say codec="auto", or name both ways: up=Codec.INT8, down=Codec.FP16.'
        )
    return codec == "auto"


def _check_schedule(schedule: Schedule) -> None:
    if schedule.shape != "constant" and schedule.total_samples <= schedule.warmup_samples:
        raise SettingError(
            f"The {schedule.shape} schedule ends at {schedule.total_samples} samples, before it has come down.",
            todo="Choose total_samples above warmup_samples.",
        )


def _check_target(target: int, samples: int) -> None:
    """Raises `SettingError` unless a round of `target` samples can be cut from a data set of `samples`."""
    if target < 1:
        raise SettingError(f"target_batch is {target}.", todo="Choose at least 1 sample for a round.")
    if target > samples:
        raise SettingError(
            f"target_batch is {target}, but the data set has only {samples} samples.",
            why="A round owns each of its samples once.",
            todo=f"Choose a target_batch of at most {samples}.",
        )


def changed_settings(current: SessionSettings, changes: Mapping[str, Any]) -> SessionSettings:
    """`current` with some settings changed, by name. Raises `SettingError` for unknown ones and wrong kinds."""
    unknown = changes.keys() - set(SessionSettings.__struct_fields__)
    if unknown:
        known = ", ".join(SessionSettings.__struct_fields__)
        raise SettingError(f"There is no setting {min(unknown)!r}.", todo=f"The settings are: {known}.")
    try:
        return msgspec.convert({**msgspec.to_builtins(current), **changes}, SessionSettings)
    except msgspec.ValidationError as error:
        raise SettingError("A setting has a value of the wrong kind.", str(error)) from None


def check_seed(settings: SessionSettings, current: SessionSettings) -> None:
    """Raises `SettingError` if a running session were to have another seed."""
    if settings.seed != current.seed:
        raise SettingError(
            "The seed of a session cannot change.", "Its sample order was drawn from it.", "Open a new session."
        )


def check_settings(settings: SessionSettings, samples: int) -> None:
    """Raises `SettingError` for a value out of its range."""
    check_numbers(settings)
    if settings.target_batch:
        _check_target(settings.target_batch, samples)
