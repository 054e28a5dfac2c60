"""Optimizers as updates of a slice of the flat vector, and the same arithmetic as torch optimizers."""
