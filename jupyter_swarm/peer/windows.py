"""A long text as samples: windows over its tokens."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from ..protocol.errors import RecipeError

_TOKENS = (torch.uint8, torch.int16, torch.int32, torch.int64)


class Windows(Dataset[torch.Tensor]):
    """Windows over a text: sample i is the `length + 1` tokens from i·stride on, int64.

    A window holds `length` predictions: token by token, its first `length` are read, its last `length` are guessed. So
    `loss` gets a batch of shape (samples, length + 1) and uses batch[:, :-1] and batch[:, 1:].

    tokens: one dimension, uint8, int16, int32 or int64: as narrow as the vocabulary allows, for it is sent like that.
    stride: tokens from one window to the next; 0 means `length`, then each token but the first is guessed once. What is
    left at the end is too short for a window and not used. Raises `RecipeError`.
    """

    def __init__(self, tokens: torch.Tensor, length: int, stride: int = 0) -> None:
        if not isinstance(tokens, torch.Tensor) or tokens.ndim != 1 or tokens.dtype not in _TOKENS:
            found = f"{tokens.dtype}, shape {list(tokens.shape)}" if isinstance(tokens, torch.Tensor) else type(tokens)
            raise RecipeError(
                f"Windows go over one dimension of integers, not over {found}.",
                todo="Pass the tokens as a 1-D tensor of uint8, int16, int32 or int64.",
            )
        if length < 1 or stride < 0:
            raise RecipeError(f"Windows of length {length}, stride {stride}.", todo="Choose a length of at least 1.")
        self.tokens = tokens
        self.length = length
        self.stride = stride or length

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.length - 1) // self.stride + 1)

    def __getitem__(self, index: int) -> torch.Tensor:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.stride
        return self.tokens[start : start + self.length + 1].long()

    def batch(self, indices: torch.Tensor) -> torch.Tensor:
        """The windows at `indices`, int64, shape (len(indices), length + 1)."""
        windows = self.tokens.unfold(0, self.length + 1, self.stride)
        return windows[indices.to(self.tokens.device)].long()

    def __repr__(self) -> str:
        return f"Windows({len(self.tokens)} tokens, length={self.length}, stride={self.stride})"
