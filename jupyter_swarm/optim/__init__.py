"""Optimizers as updates of a slice of the flat vector, and the same arithmetic as torch optimizers.

Importing this package brings only the plain settings, no torch; `slices` and `torch_optimizer` hold the arithmetic.
"""

from ..protocol.rules import SGD, AdamW, Nesterov, OptimizerRule, Schedule, Sophia

__all__ = ["SGD", "AdamW", "Nesterov", "OptimizerRule", "Schedule", "Sophia"]
