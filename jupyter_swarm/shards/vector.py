"""The flat vector in memory: filled from a model, copied into one, digested, handed out by slices.

Numbers lie in memory as they lie on the wire, little-endian; a big-endian machine cannot take part.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from ..protocol.errors import LayoutError
from ..protocol.layout import CHUNK_ELEMENTS, SECTIONS, Layout, Shard, Stream, TensorSpec, section_of
from .layout import shared_tensors


def storage_dtype(stream: Stream) -> torch.dtype:
    """The dtype in which a section is kept: int64 for counters, fp32 for the rest."""
    return torch.int64 if stream == Stream.COUNTER else torch.float32


def sha256(tensor: Tensor) -> str:
    """SHA-256 of the bytes of a contiguous CPU tensor."""
    return hashlib.sha256(tensor.numpy().data).hexdigest()


def square_sum(values: Tensor) -> float:
    """Sum of squares of a 1-D fp32 tensor, added up chunk by chunk: inf or nan if a number is not finite, or beyond
    1.8e19."""
    return math.fsum(float(torch.dot(chunk, chunk)) for chunk in torch.split(values, CHUNK_ELEMENTS))


class FlatVector:
    """All that a layout describes, or the sections named in `streams`, as one tensor for each section: on the CPU, or
    on the device where a model is trained (what is digested must be on the CPU).

    Slices are addressed as in frames: by the stream and the first element's place in the whole vector. A contribution
    may also have HESSIAN among its `streams`: as long as the parameters' section, in a tensor of its own.
    """

    def __init__(
        self, layout: Layout, streams: Iterable[Stream] = SECTIONS, device: torch.device | None = None
    ) -> None:
        self.layout = layout
        self.sections: dict[Stream, Tensor] = {}
        for stream in streams:
            start, stop = layout.sections[section_of(stream)]
            self.sections[stream] = torch.zeros(stop - start, dtype=storage_dtype(stream), device=device)

    @classmethod
    def of(cls, layout: Layout, model: nn.Module) -> FlatVector:
        """A new vector with the numbers of `model`."""
        vector = cls(layout)
        vector.fill(model)
        return vector

    def slice(self, stream: Stream, start: int, count: int) -> Tensor:
        """A view of `count` elements from `start` on, fp32 (counters int64)."""
        section = section_of(stream)
        first = start - self.layout.sections[section][0]
        kept = stream if stream == Stream.HESSIAN else section
        return self.sections[kept][first : first + count]

    def shard(self, shard: Shard) -> Tensor:
        """A view of one shard."""
        return self.slice(shard.stream, shard.start, shard.count)

    def specs(self, streams: Collection[Stream] = SECTIONS) -> list[TensorSpec]:
        """The tensors of the sections that this vector has, or of those among `streams`."""
        return [spec for spec in self.layout.tensors if spec.stream in self.sections and spec.stream in streams]

    @torch.no_grad()
    def fill(self, model: nn.Module, streams: Collection[Stream] = SECTIONS) -> None:
        """Take the numbers from `model`. Raises `LayoutError` if it has other tensors."""
        self.load(shared_tensors(model), streams)

    @torch.no_grad()
    def copy_to(self, model: nn.Module, streams: Collection[Stream] = SECTIONS) -> None:
        """Give the numbers to `model`, each tensor in its own dtype and on its own device."""
        targets = shared_tensors(model)
        moved: dict[tuple[Stream, torch.device], Tensor] = {}
        for spec in self.specs(streams):
            target = _find(targets, spec)
            place = (spec.stream, target.device)
            if place not in moved:
                moved[place] = self.sections[spec.stream].to(target.device)
            first = spec.start - self.layout.sections[spec.stream][0]
            target.copy_(moved[place][first : first + spec.count].view(spec.shape))

    def copy_from(self, other: FlatVector) -> None:
        """Take the numbers of another vector of the same layout, in the sections that this one has."""
        for stream, section in self.sections.items():
            section.copy_(other.sections[stream])

    def tensors(self, cast: bool = False) -> dict[str, Tensor]:
        """Name -> tensor in its shape: views in storage dtype (nothing is lost), or copies in the model's dtypes."""
        result: dict[str, Tensor] = {}
        for spec in self.specs():
            view = self.slice(spec.stream, spec.start, spec.count).view(spec.shape)
            result[spec.name] = view.to(getattr(torch, spec.dtype), copy=True) if cast else view
        return result

    def load(self, tensors: Mapping[str, Tensor], streams: Collection[Stream] = SECTIONS) -> None:
        """Take the numbers from what `tensors` gave. Raises `LayoutError` for a missing tensor or another shape,
        before anything is changed."""
        found = [(spec, _find(tensors, spec)) for spec in self.specs(streams)]
        for spec, tensor in found:
            self.slice(spec.stream, spec.start, spec.count).view(spec.shape).copy_(tensor)

    def digest(self, shard: Shard) -> str:
        """SHA-256 of one shard."""
        return sha256(self.shard(shard))

    def digest_all(self) -> str:
        """SHA-256 of all sections in their order."""
        digest = hashlib.sha256()
        for stream in SECTIONS:
            if stream in self.sections:
                digest.update(self.sections[stream].numpy().data)
        return digest.hexdigest()

    def chunks(self) -> list[tuple[Shard, int, int]]:
        """(shard, start, count) of every chunk, in the order of the shards and their frames."""
        shards = (shard for shard in self.layout.shards if shard.stream in self.sections)
        return [(shard, start, count) for shard in shards for start, count in shard.chunks()]

    def chunk_digests(self) -> tuple[str, ...]:
        """SHA-256 of every chunk, in the order of `chunks`: what a snapshot is checked against."""
        return tuple(sha256(self.slice(shard.stream, start, count)) for shard, start, count in self.chunks())


def _find(tensors: Mapping[str, Tensor], spec: TensorSpec) -> Tensor:
    tensor = tensors.get(spec.name)
    if tensor is None or tuple(tensor.shape) != spec.shape:
        there = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
        raise LayoutError(
            f"Tensor {spec.name} {there}.",
            why=f"The session's layout says shape {list(spec.shape)}.",
            todo="Build the model exactly as the session's recipe does.",
        )
    return tensor
