"""The digits: real images, learned within seconds, identically everywhere."""

from __future__ import annotations

import torch

from jupyter_swarm.peer.alone import Training
from jupyter_swarm.peer.recipe import load_recipe


def test_it_learns_the_digits() -> None:
    recipe = load_recipe("digits")
    training = Training(recipe).run(recipe.rounds)
    assert training.evaluations[-1]["count"] == 360
    assert training.evaluations[-1]["accuracy"] >= 0.97


def test_no_image_is_in_both_parts_and_all_are_in_one() -> None:
    data = load_recipe("digits").load_data()
    images = torch.cat([data.train[0], data.held_out[0]])
    assert len(images) == 1797
    assert len(torch.cat([data.train[1], data.held_out[1]])) == 1797
    everything = torch.unique(images.flatten(1), dim=0)
    train, held_out = (torch.unique(part[0].flatten(1), dim=0) for part in (data.train, data.held_out))
    assert len(train) + len(held_out) == len(everything)


def test_every_peer_gets_the_same_samples_and_the_same_model() -> None:
    one, two = load_recipe("digits"), load_recipe("digits")
    for first, second in zip(one.load_data().train, two.load_data().train, strict=True):
        assert torch.equal(first, second)
    for first, second in zip(one.build().parameters(), two.build().parameters(), strict=True):
        assert torch.equal(first, second)
