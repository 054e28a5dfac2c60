"""Training together is the training of one machine: over a real server, peers come, go and differ in speed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks import equivalence
from tests.benchmarks.harness import Server


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.mark.parametrize("optimizer", ["SGD", "Nesterov"])
def test_20_rounds_end_where_one_process_ends_on_the_same_batches(here: Server, optimizer: str) -> None:
    recipe = equivalence.network(equivalence.OPTIMIZERS[optimizer])
    figures = equivalence.deviation(here, recipe)
    assert figures["deviation"] <= 1e-5
    assert figures["moved"] >= 1e-2
