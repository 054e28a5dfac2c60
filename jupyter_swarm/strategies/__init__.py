"""Training algorithms, one file each: the round rule as plain data, and the torch half, as in the paper's box."""

from ..protocol.rules import OptimizerRule, RoundRule, StrategyChange
from .every_step import EveryStep
from .local_updates import LocalUpdates
from .sparse_local_updates import SparseLocalUpdates
from .streaming_local_updates import StreamingLocalUpdates
from .warm_start import WarmStart

__all__ = [
    "EveryStep", "LocalUpdates", "SparseLocalUpdates", "Strategy", "StreamingLocalUpdates", "WarmStart", "rules_of",
]  # fmt: skip

Strategy = EveryStep | LocalUpdates | SparseLocalUpdates | StreamingLocalUpdates | WarmStart


def rules_of(
    strategy: Strategy, optimizer: OptimizerRule, predictions: int = 1
) -> tuple[RoundRule, tuple[StrategyChange, ...]]:
    """The rule of the first round, and the changes to come: what a session's spec says of its strategy."""
    if isinstance(strategy, WarmStart):
        later = StrategyChange(strategy.rounds + 1, strategy.then.rule(optimizer, predictions))
        return strategy.first.rule(optimizer, predictions), (later,)
    return strategy.rule(optimizer, predictions), ()
