import math

import pytest
import torch
from torch import Tensor, nn

from jupyter_swarm.protocol.errors import LayoutError
from jupyter_swarm.protocol.layout import ParameterGroup, Stream
from jupyter_swarm.shards.layout import decay_matrices, layout_of
from jupyter_swarm.shards.vector import FlatVector


class Everything(nn.Module):
    """One tensor of each kind that a layout tells apart."""

    mask: Tensor
    scratch: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Parameter(torch.randn(2, 2), requires_grad=False)
        self.table = nn.Parameter(torch.tensor([1, 2, 255], dtype=torch.uint8), requires_grad=False)
        self.narrow = nn.Parameter(torch.randn(4).to(torch.bfloat16))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("scratch", torch.zeros(7), persistent=False)


def test_each_kind_of_tensor_has_its_section_and_ties_appear_once() -> None:
    layout = layout_of(Everything())
    names = {
        stream: [tensor.name for tensor in layout.tensors if tensor.stream == stream] for stream in layout.sections
    }
    assert names == {
        Stream.PARAMETERS: ["narrow", "embedding.weight", "norm.weight", "norm.bias"],
        Stream.BUFFER: ["norm.running_mean", "norm.running_var"],
        Stream.COUNTER: ["mask", "norm.num_batches_tracked"],
        Stream.CONSTANT: ["frozen", "table"],
    }
    places = {tensor.name: tensor for tensor in layout.tensors}
    assert places["embedding.weight"].ties == ("head.weight",)
    assert places["narrow"].dtype == "bfloat16"
    assert places["mask"].dtype == "bool"
    position = 0
    for tensor in layout.tensors:
        assert tensor.start == position
        position += tensor.count
    assert layout.elements == position


def test_same_model_same_digest_and_a_difference_is_named() -> None:
    assert layout_of(Everything()).digest == layout_of(Everything()).digest
    small, large = layout_of(nn.Linear(2, 3)), layout_of(nn.Linear(2, 4))
    assert "weight" in small.difference(large)


def test_groups_follow_the_grouping() -> None:
    layout = layout_of(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), groups=decay_matrices)
    assert layout.groups == (ParameterGroup("decay"), ParameterGroup("no decay", weight_decay_scale=0.0))
    groups = {tensor.name: layout.groups[tensor.group].name for tensor in layout.tensors}
    assert groups == {"0.weight": "decay", "0.bias": "no decay", "1.weight": "no decay", "1.bias": "no decay"}


class With(nn.Module):
    def __init__(self, tensor: Tensor, trained: bool = True) -> None:
        super().__init__()
        self.odd = nn.Parameter(tensor, requires_grad=trained)
        self.fine = nn.Parameter(torch.zeros(2))


class Masked(nn.Module):
    def __init__(self, value: float, persistent: bool = True) -> None:
        super().__init__()
        self.fine = nn.Parameter(torch.zeros(2))
        self.register_buffer("mask", torch.full((3, 3), value).triu(1), persistent)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Linear(2, 2).requires_grad_(False), "nothing to train"),
        (nn.ReLU(), "nothing to train"),
        (With(torch.zeros(2, dtype=torch.complex64)), "complex"),
        (With(torch.zeros(2, device="meta")), "meta"),
        (nn.LazyLinear(3), "no shape"),
        (With(torch.eye(2).to_sparse()), "sparse"),
        (With(torch.tensor([2**24 + 1]), trained=False), "fp32"),
        (Masked(-math.inf), "persistent=False"),
        (Masked(torch.finfo(torch.float32).min), "persistent=False"),
    ],
)
def test_models_that_cannot_be_trained_together(model: nn.Module, said: str) -> None:
    with pytest.raises(LayoutError, match=said):
        layout_of(model)


def test_buffers_that_are_not_shared_may_be_infinite() -> None:
    assert [tensor.name for tensor in layout_of(Masked(-math.inf, persistent=False)).tensors] == ["fine"]
    assert [tensor.name for tensor in layout_of(Masked(-1e9)).tensors] == ["fine", "mask"]


def test_vector_carries_a_model_to_its_twin_bit_for_bit() -> None:
    model, twin = Everything(), Everything()
    model.norm(torch.randn(8, 3))
    layout = layout_of(model)
    FlatVector.of(layout, model).copy_to(twin)
    mine, theirs = model.state_dict(), twin.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert {name: tensor.dtype for name, tensor in mine.items()} == {name: t.dtype for name, t in theirs.items()}
    assert twin.head.weight is twin.embedding.weight
    assert FlatVector.of(layout, model).digest_all() == FlatVector.of(layout, twin).digest_all()
