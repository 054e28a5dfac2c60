"""What happens while a contribution is on its way."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest
import torch

from jupyter_swarm.link import Upload
from jupyter_swarm.peer.contribution import Contribution
from jupyter_swarm.protocol.errors import LinkError
from jupyter_swarm.protocol.frames import Kind
from jupyter_swarm.protocol.rules import AdamW
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.outgoing import Envelope, FrameWriter
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep


class Sending:
    """A contribution whose upload the test carries out, or does not."""

    def __init__(self) -> None:
        model = torch.nn.Linear(3, 1)
        self.uploads: list[Upload] = []
        self.contribution = Contribution(1, 0, FlatVector.of(layout_of(model), model))

    def start(self) -> None:
        envelope = Envelope(Kind.CONTRIBUTION, 1, 1, 1, 1)
        self.contribution.upload(self._send, FrameWriter(), envelope, EveryStep(8).rule(AdamW(lr=0.1)))

    def _send(self, frames: Iterable[tuple[memoryview, ...]]) -> Upload:
        self.uploads.append(Upload(frames))
        return self.uploads[-1]


def test_its_numbers_stay_until_the_frame_under_way_has_left_however_slow_the_link_is() -> None:
    sending = Sending()
    sending.start()
    (upload,) = sending.uploads
    ending = threading.Thread(target=sending.contribution.end)
    ending.start()
    ending.join(0.1)
    assert ending.is_alive()
    assert upload.cancelled
    upload.end()
    ending.join(10)
    assert not ending.is_alive()


def test_it_is_sent_once() -> None:
    sending = Sending()
    sending.start()
    sending.start()
    assert len(sending.uploads) == 1


def test_a_lost_connection_is_no_error_of_its_own_but_what_goes_wrong_here_is() -> None:
    sending = Sending()
    sending.start()
    sending.uploads[0].end(LinkError("The upload was cut off."))
    sending.contribution.end()

    sending = Sending()
    sending.start()
    sending.uploads[0].end(ValueError("no such codec"))
    with pytest.raises(ValueError, match="no such codec"):
        sending.contribution.end()
