"""Training algorithms, one file each: the round rule as plain data, and the torch half, as in the paper's box."""

from .every_step import EveryStep

__all__ = ["EveryStep"]
