"""The thread that trains, from its beginning to its end."""

from __future__ import annotations

from pathlib import Path

from jupyter_swarm.link import Timing
from jupyter_swarm.peer.compute import prepare
from jupyter_swarm.peer.identity import Identity
from jupyter_swarm.peer.record import OVER, Record
from jupyter_swarm.peer.trainer import Trainer
from jupyter_swarm.protocol.errors import LinkError

from .classroom import EVERY_STEP, local


def test_what_ended_it_is_what_its_status_says(tmp_path: Path) -> None:
    record = Record("toy-1")
    trainer = Trainer(
        "ws://127.0.0.1:9/", {}, prepare(local(strategy=EVERY_STEP), 3), record,
        Identity("http://127.0.0.1:9", "toy-1", directory=tmp_path), "", timing=Timing(first_delay=0.01, connect=0.05),
    )  # fmt: skip
    assert trainer.digest() == ""
    trainer.start()
    assert record.wait_for(lambda status: status.state in OVER, 60)
    assert trainer.leave()
    assert isinstance(record.error, LinkError)
    assert record.status.state == "failed"
    assert "could not be reached" in record.status.reason
