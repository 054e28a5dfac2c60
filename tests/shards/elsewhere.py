"""Devices that are not the CPU: real ones, or where there is none a pretended one, whose tensors are the CPU's but obey
torch's rules between devices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = (torch.device("cuda", 0), torch.device("mps", 0))


def elsewhere(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """In it, one of `ELSEWHERE` can be used."""
    there = torch.cuda.is_available() if device.type == "cuda" else torch.backends.mps.is_available()
    return contextlib.nullcontext() if there else _Pretended(device)


_BETWEEN_DEVICES = {"copy_", "to", "cpu", "empty_like", "zeros_like", "__set__", "_has_compatible_shallow_copy_type"}


class _Pretended(TorchFunctionMode):
    """While it is entered, what is made on or moved to the device is there. As with a real one an operation on tensors
    of both places raises RuntimeError, and numpy sees only the CPU's memory (TypeError)."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._there: dict[int, torch.UntypedStorage] = {}  # kept, so that no other gets its address

    def has(self, tensor: Tensor) -> bool:
        """Whether the tensor is there."""
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage().data_ptr() in self._there

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        tensors = [one for one in tree_flatten((list(args), named))[0] if isinstance(one, Tensor)]
        there = [self.has(one) for one in tensors]
        name = getattr(function, "__name__", "")
        if function == Tensor.device.__get__:  # type: ignore[attr-defined]
            return self._device if there[0] else torch.device("cpu")
        if name in ("numpy", "__array__") and there[0]:
            raise TypeError("numpy cannot see the memory of another device.")
        arrays = [bool(one.dim() and one.numel()) for one in tensors]
        strangers = any(array and not one for array, one in zip(arrays, there, strict=True))
        if any(there) and strangers and name not in _BETWEEN_DEVICES:
            raise RuntimeError(f"{name}: tensors are on two devices.")
        place = self._place(name, args, named, there)
        if "device" in named:
            named["device"] = torch.device("cpu")
        if name == "to":
            args = [torch.device("cpu") if isinstance(one, torch.device) else one for one in args]
        result = function(*args, **named)
        moved = name in ("to", "cpu") and there[0] != place
        return tree_map(lambda one: self._placed(one, place, moved) if isinstance(one, Tensor) else one, result)

    def _place(self, name: str, args: Sequence[Any], named: Mapping[str, Any], there: list[bool]) -> bool:
        """Whether the result is there."""
        devices = [one for one in (named.get("device"), *args) if isinstance(one, torch.device | str)]
        if name == "cpu":
            return False
        if devices:
            return devices[0] == self._device
        return bool(there) and there[0]

    def _placed(self, tensor: Tensor, place: bool, moved: bool) -> Tensor:
        with torch._C.DisableTorchFunction():
            if moved:
                tensor = tensor.clone()
            if place and tensor.numel():
                storage = tensor.untyped_storage()
                self._there[storage.data_ptr()] = storage
            return tensor
