import hashlib

import pytest
import safetensors.torch
import torch
from torch import nn

from jupyter_swarm.protocol.errors import LayoutError
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, Stream
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector, square_sum


def batch_norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def test_slices_are_views_addressed_in_the_whole_vector() -> None:
    model = batch_norm_net()
    layout = layout_of(model)
    vector = FlatVector.of(layout, model)
    start, stop = layout.sections[Stream.BUFFER]
    vector.slice(Stream.BUFFER, start, stop - start).fill_(7.0)
    vector.slice(Stream.COUNTER, layout.sections[Stream.COUNTER][0], 1).fill_(2**40 + 1)
    vector.slice(Stream.GRADIENT, 1, 2).fill_(5.0)
    vector.copy_to(model)
    assert torch.equal(model[1].running_var, torch.full((3,), 7.0))
    assert model[1].num_batches_tracked == 2**40 + 1
    assert model[0].weight.flatten()[:4].tolist()[1:3] == [5.0, 5.0]


def test_digests_are_those_of_the_bytes() -> None:
    vector = FlatVector.of(layout_of(nn.Linear(4, 3)), nn.Linear(4, 3))
    raw = vector.sections[Stream.PARAMETERS].numpy().astype("<f4").tobytes()
    expected = hashlib.sha256(raw).hexdigest()
    assert vector.digest(vector.layout.shards[0]) == vector.digest_all() == expected
    assert vector.chunk_digests() == (expected,)


def test_chunk_digests_cover_every_shard_in_order() -> None:
    model = nn.Sequential(nn.Linear(1024, 300), nn.BatchNorm1d(300))
    layout = layout_of(model, shard_elements=CHUNK_ELEMENTS)
    vector = FlatVector.of(layout, model)
    before = vector.chunk_digests()
    assert len(before) == len(vector.chunks()) == 4
    vector.slice(Stream.PARAMETERS, CHUNK_ELEMENTS, 1).add_(1)
    assert [a != b for a, b in zip(before, vector.chunk_digests(), strict=True)] == [False, True, False, False]


def test_tensors_survive_safetensors_and_keep_digits_of_half_precision_models() -> None:
    model = batch_norm_net().to(torch.bfloat16)
    layout = layout_of(model)
    vector = FlatVector.of(layout, model)
    vector.sections[Stream.PARAMETERS].add_(1e-4)
    again = FlatVector(layout)
    again.load(safetensors.torch.load(safetensors.torch.save(vector.tensors())))
    assert again.digest_all() == vector.digest_all()
    assert {tensor.dtype for tensor in vector.tensors(cast=True).values()} == {torch.bfloat16, torch.int64}


def test_a_tensor_that_is_missing_or_has_another_shape_is_named_and_nothing_changes() -> None:
    layout = layout_of(nn.Linear(2, 3))
    vector = FlatVector(layout)
    with pytest.raises(LayoutError, match="bias is missing"):
        vector.load({"weight": torch.ones(3, 2)})
    with pytest.raises(LayoutError, match="weight has shape"):
        vector.load({"weight": torch.ones(2, 3), "bias": torch.ones(3)})
    assert not vector.sections[Stream.PARAMETERS].any()
    with pytest.raises(LayoutError):
        vector.copy_to(nn.Linear(2, 4))


def test_square_sum() -> None:
    values = torch.randn(CHUNK_ELEMENTS + 5)
    assert square_sum(values) == pytest.approx(float(values.double().square().sum()), rel=1e-5)
    assert square_sum(torch.zeros(0)) == 0.0
