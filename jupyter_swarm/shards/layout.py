"""A model's layout: which of its tensors are shared, and where each lies in the flat vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..protocol.errors import LayoutError
from ..protocol.layout import SECTIONS, SHARD_ELEMENTS, Layout, ParameterGroup, Stream, TensorSpec

Grouping = Callable[[str, Tensor], ParameterGroup]
"""Says which parameter group a trained parameter belongs to, from its name and itself."""

_EXACT_IN_FP32 = (torch.bool, torch.uint8, torch.int8, torch.int16)


def one_group(name: str, parameter: Tensor) -> ParameterGroup:
    """All parameters alike."""
    return ParameterGroup()


def decay_matrices(name: str, parameter: Tensor) -> ParameterGroup:
    """The usual split for transformers: weight decay on matrices, none on biases and norms (fewer than 2 dims)."""
    if parameter.ndim < 2:
        return ParameterGroup("no decay", weight_decay_scale=0.0)
    return ParameterGroup("decay")


def shared_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors by name: parameters and persistent buffers, each once, under its first name."""
    return {names[0]: tensor for tensor, names in _named(model)}


def layout_of(model: nn.Module, groups: Grouping = one_group, shard_elements: int = SHARD_ELEMENTS) -> Layout:
    """The layout of `model`. Tensors keep the model's order within their section; tied ones appear once.

    Trained parameters, floating buffers, integer and boolean buffers (counters), and parameters that are not trained
    (constants) each get their section. Buffers that are not persistent are not shared: a model makes them itself.
    All but counters travel as fp32, so float64 tensors lose digits. Raises `LayoutError`: nothing to train, complex,
    sparse, meta or uninitialized tensors, frozen integers that fp32 cannot hold, floating buffers that are not finite.
    """
    names: dict[Stream, list[tuple[Tensor, list[str]]]] = {stream: [] for stream in SECTIONS}
    for tensor, aliases in _named(model):
        names[_stream_of(aliases[0], tensor)].append((tensor, aliases))
    if not any(tensor.numel() for tensor, _ in names[Stream.PARAMETERS]):
        raise LayoutError(
            "The model has nothing to train.",
            why="None of its parameters has requires_grad=True and at least one element.",
            todo="Check what the recipe's model() returns.",
        )
    found: list[ParameterGroup] = []
    specs: list[TensorSpec] = []
    position = 0
    for stream in SECTIONS:
        for tensor, aliases in names[stream]:
            group = groups(aliases[0], tensor) if stream == Stream.PARAMETERS else None
            if group is not None and group not in found:
                found.append(group)
            specs.append(
                TensorSpec(
                    name=aliases[0],
                    shape=tuple(tensor.shape),
                    dtype=str(tensor.dtype).removeprefix("torch."),
                    stream=stream,
                    start=position,
                    count=tensor.numel(),
                    group=found.index(group) if group is not None else 0,
                    ties=tuple(aliases[1:]),
                )
            )
            position += tensor.numel()
    return Layout(tensors=tuple(specs), groups=tuple(found), shard_elements=shard_elements)


def _named(model: nn.Module) -> list[tuple[Tensor, list[str]]]:
    """Every parameter and persistent buffer with all its names, in the order of the model's state dict."""
    result: dict[int, tuple[Tensor, list[str]]] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    persistent = model.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in model.named_buffers(remove_duplicate=False) if name in persistent}
    for name in [name for name in persistent if name in parameters or name in buffers]:
        tensor = parameters[name] if name in parameters else buffers[name]
        result.setdefault(id(tensor), (tensor, []))[1].append(name)
    return list(result.values())


def _stream_of(name: str, tensor: Tensor) -> Stream:
    kind = f"Tensor {name} is {str(tensor.dtype).removeprefix('torch.')}"
    if nn.parameter.is_lazy(tensor):
        raise LayoutError(f"Tensor {name} has no shape yet.", todo="Run the model once before you return it.")
    if tensor.is_meta:
        raise LayoutError(
            f"Tensor {name} is on the meta device: it has no numbers.", todo="Build the model on the CPU or a GPU."
        )
    if tensor.layout != torch.strided:
        raise LayoutError(f"Tensor {name} is sparse; only dense tensors are shared.", todo="Make it dense.")
    if tensor.is_complex():
        raise LayoutError(f"{kind}: complex tensors are not shared.", todo="Keep real and imaginary parts apart.")
    if isinstance(tensor, nn.Parameter):
        if tensor.requires_grad:
            return Stream.PARAMETERS
        exact = tensor.is_floating_point() or tensor.dtype in _EXACT_IN_FP32
        if not exact and not torch.equal(tensor.to(torch.float32).to(tensor.dtype), tensor):
            raise LayoutError(f"{kind}, is not trained, and its numbers do not fit fp32.", todo="Make it a buffer.")
        return Stream.CONSTANT
    if not tensor.is_floating_point():
        return Stream.COUNTER
    values = tensor.detach().reshape(-1).to(torch.float32)
    if not torch.dot(values, values).isfinite():
        raise LayoutError(
            f"Buffer {name} has numbers that are infinite, NaN or above 1e19.",
            why="Buffers that are saved with the model are averaged over the peers.",
            todo="Register it with persistent=False: then every peer makes it by itself.",
        )
    return Stream.BUFFER
