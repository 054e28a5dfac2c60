"""The range of every number that a person can set, in rules, optimizers, schedules and settings."""

from __future__ import annotations

import msgspec

from .errors import SettingError

_RATE = (0.0, 1e6)
_AVERAGE = (0.0, 0.999999)
"""The factor of a running average: with one it would never forget."""
_EPSILON = (1e-30, 1.0)
"""Above zero also in fp32, where it is added to a divisor."""
_NORM = (0.0, 1e9)
_COUNT = (0, 10**15)

LIMITS: dict[str, dict[str, tuple[float, float]]] = {
    "Schedule": {"warmup_samples": _COUNT, "total_samples": _COUNT, "floor": (0.0, 1.0)},
    "SGD": {"lr": _RATE, "momentum": _AVERAGE, "weight_decay": _RATE},
    "AdamW": {"lr": _RATE, "betas": _AVERAGE, "eps": _EPSILON, "weight_decay": _RATE},
    "Sophia": {
        "lr": _RATE, "betas": _AVERAGE, "rho": _RATE, "eps": _EPSILON, "weight_decay": _RATE,
        "hessian_every": (1, 10**6),
    },
    "RoundRule": {
        "target_batch": _COUNT, "inner_steps": (0, 10**6), "fragments": (1, 64), "quorum": (1e-6, 1.0),
        "grace": (0.0, 86400.0), "staleness": (0, 100), "norm_limit": _NORM, "clip_norm": _NORM,
        "inner_batch": _COUNT, "inner_clip_norm": _NORM, "predictions": (1, 10**15), "begins": (1, 10**9),
        "mixing": (0.0, 1.0),
    },
    "StreamRule": {"feedback": (0.0, 1.0)},
    "SessionSettings": {
        "seed": (-(2**63), 2**63 - 1), "rounds": (0, 10**9), "evaluate_every": (0, 10**9),
        "minimum_peers": (1, 10**6), "capacity": (1, 10**6), "upload_bytes": (1, 2**50),
        "lease_seconds": (1.0, 86400.0), "learning_rate": _RATE, "target_batch": _COUNT,
        "snapshot_rounds": (1, 10**6), "inner_steps": (0, 10**6), "checkpoint_rounds": (0, 10**9),
        "own_samples": (0, 10**9),
    },
}  # fmt: skip
"""The names of classes -> those of fields -> least and largest value; of a pair, for both."""


def check_numbers(settings: msgspec.Struct) -> None:
    """Raises `SettingError` unless every field of `settings`, and of the settings in it, is of its kind and in its
    range. NaN is in none."""
    try:
        msgspec.convert(msgspec.to_builtins(settings), type(settings))
    except (msgspec.ValidationError, TypeError) as error:
        raise SettingError(
            "A setting has a value of the wrong kind.",
            str(error),
            "Choose plain numbers of Python: float(x), int(x).",
        ) from None
    _check_ranges(settings)


def _check_ranges(settings: msgspec.Struct) -> None:
    kind = type(settings).__name__
    limits = LIMITS.get(kind, {})
    whose = f"{kind}: " if kind not in ("RoundRule", "SessionSettings") else ""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        structs = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, msgspec.Struct)]
        for one in structs:
            _check_ranges(one)
        if name in limits:
            low, high = limits[name]
            if not all(low <= number <= high for number in (value if isinstance(value, tuple) else (value,))):
                raise SettingError(f"{whose}{name} is {value}.", todo=f"Choose a value from {low} to {high}.")
