"""The history of a real session, as a kernel fetches it from a real server."""

from __future__ import annotations

import threading

import msgspec
import pytest
import xarray as xr

from jupyter_swarm.peer import api
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.records import RoundRecord
from tests.waiting import until

from .classroom import PLAIN
from .conftest import Server

pytestmark = pytest.mark.usefixtures("kernel")


def test_the_history_of_a_session_is_what_its_server_recorded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = api.host(Recipe.from_source(PLAIN), "CS 101", rounds=0, train=False, server=server.url)
    assert hosted.history().sizes["round"] == 0
    session = api.join(hosted.invite().link, "ann", agree=hosted.recipe.sha256)
    assert session._record.wait_for(lambda status: status.version >= 4, 60)
    early = session.history()
    hosted.stop()
    assert session.wait(60)
    until(lambda: any("Checkpoint" in text for text in hosted.history().event_text.values))

    records = msgspec.convert(hosted._client.records(hosted.id), list[RoundRecord])
    asked: list[int] = []
    fetch = session._client.record_pages
    monkeypatch.setattr(session._client, "record_pages", lambda id_, after: (asked.append(after), fetch(id_, after))[1])
    history = session.history()
    assert asked == [early["round"].values[-1]], "only newer rounds are fetched"

    rounds = history.sel(round=slice(1, None))
    assert rounds["round"].values.tolist() == [record.round for record in records]
    assert rounds.loss.values == pytest.approx([record.mean_loss for record in records])
    assert rounds.samples.sum("peer").values.tolist() == [record.samples for record in records]
    assert rounds.samples_done.values[-1] == records[-1].book.consumed
    assert history.peer.values.tolist() == ["ann"]
    assert history.device.values.tolist() == ["cpu"]
    assert history.bytes_up.sum() > 4 * 74 * len(records), "a gradient of 74 numbers in each round"
    assert history.held_out_accuracy.dropna("round")["round"].values[-1] == records[-1].round
    assert any("ann joined" in text for text in history.event_text.values)

    xr.testing.assert_identical(session.overview(), history)

    card = session.card()
    assert (card.name, card.recipe, card.source) == ("CS 101", session.recipe.sha256, PLAIN)
    assert card.totals.samples == records[-1].book.consumed
    assert session.plot("time")._repr_png_().startswith(b"\x89PNG")
    told = [event["text"] for event in session.events()]
    assert told[: history.sizes["event"]] == history.event_text.values.tolist()


def test_who_is_connected(server: Server) -> None:
    session = api.host(Recipe.from_source(PLAIN), rounds=10**6, server=server.url)
    assert session._record.wait_for(lambda status: status.version >= 1, 60)
    (peer,) = session.peers()
    assert (peer["name"], peer["device"]) == ("host", "cpu")


def test_two_threads_may_ask_at_once(server: Server) -> None:
    session = api.host(Recipe.from_source(PLAIN), rounds=6, server=server.url)
    assert session.wait(60)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(session.history().sizes["round"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    assert len(set(found)) == 1
