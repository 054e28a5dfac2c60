"""Estimates of the Hessian's diagonal for Sophia (Liu et al., arXiv 2305.14342), left in the parameters' `.grad`.

Gauss-Newton-Bartlett (algorithm 2) needs no more than `backward` of a loss whose labels are sampled from the model's
own predictions; `sampled_cross_entropy` is that loss for logits. Hutchinson (algorithm 1) is `add_hutchinson`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..protocol.errors import SettingError


def sampled_cross_entropy(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Mean cross entropy of `logits` (…, classes) against labels drawn from their own softmax: the loss whose gradient
    is the Gauss-Newton-Bartlett ĝ. Its B is the number of labels drawn: all dimensions but the last.

    generator: on the logits' device; without one torch's own.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    chances = torch.softmax(flat.detach().float(), dim=-1)
    labels = torch.multinomial(chances, 1, generator=generator).squeeze(1)
    return F.cross_entropy(flat, labels)


def add_hutchinson(loss: Tensor, parameters: Sequence[Tensor], seed: int) -> None:
    """Add u⊙∇⟨∇loss, u⟩ to the `.grad` of each parameter: the diagonal of the loss's Hessian on average over u.

    u is standard normal, drawn on the CPU in the order of `parameters` from a generator with `seed`: equal seeds give
    equal u on every machine, and then the estimate of a sum of losses is the sum of their estimates. It needs memory
    for u, for the gradient and for the gradient's graph. Raises `SettingError` if an operation of the model has no
    second derivative.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(parameter.shape, generator=generator).to(parameter) for parameter in parameters]
    try:
        gradients: Sequence[Tensor | None] = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        # A loss that is linear in a parameter has a gradient without a graph: nothing comes from it.
        pairs = [
            (gradient, u)
            for gradient, u in zip(gradients, drawn, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not pairs:
            return
        products: Sequence[Tensor | None] = torch.autograd.grad(
            [gradient for gradient, _ in pairs], parameters, [u for _, u in pairs], allow_unused=True
        )
    except (RuntimeError, NotImplementedError) as error:
        if not any(word in str(error) for word in ("derivative", "differentiate twice")):
            raise
        raise SettingError(
            "Hutchinson's estimate needs second derivatives, and an operation of the model has none.",
            str(error).split("\n")[0],
            "Choose Sophia(estimator='gnb'), or build the model without fused attention.",
        ) from None
    with torch.no_grad():
        for parameter, u, product in zip(parameters, drawn, products, strict=True):
            if product is None:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.addcmul_(u, product)


def hutchinson_seed(seed: int, round: int) -> int:
    """The seed of `round`'s u in a session with `seed`: the same for all peers."""
    return int.from_bytes(hashlib.sha256(f"hutchinson {seed} {round}".encode()).digest()[:7], "little")
