"""What a session's server has recorded, as a history; only what is new is fetched."""

from __future__ import annotations

import threading

import xarray as xr

from ..history import Rows, dataset_of
from ..protocol.rules import SessionSpec
from .client import Client


class Past:
    """The history of one session as its server tells it. source: the recipe's text, for the run card. most: have about
    so many rounds, older ones being counted together; 0: all."""

    def __init__(self, client: Client, session: str, source: str, most: int = 0) -> None:
        self._client = client
        self._session = session
        self._source = source
        self._most = most
        self._rows = Rows()
        self._devices: dict[str, str] = {}
        self._spec: SessionSpec | None = None
        self._lock = threading.Lock()

    def dataset(self) -> xr.Dataset:
        """All rounds committed so far. Raises `LinkError`, `SessionError`; what was fetched by then stays."""
        client, session, rows = self._client, self._session, self._rows
        with self._lock:
            events = client.events(session, rows.last_event)
            # Whoever joins, and whatever is set, leaves an event.
            if (events or self._spec is None) and self._look_again():
                rows.add(events=client.events(session))
                for records in client.record_pages(session):
                    rows.add(records=records)
            rows.add(events=events)
            for records in client.record_pages(session, rows.last_round):
                rows.add(records=records)
            for metrics in client.metric_pages(session, rows.last_version):
                rows.add(metrics=metrics)
            if self._most:
                rows.thin(self._most)
            return dataset_of(rows, self._spec, source=self._source, checkpoints=client.checkpoints(session))

    def _look_again(self) -> bool:
        """Who is there, and what the session is; whether somebody is shown by another name than before, which older
        texts then have, too."""
        before = {member.member: member.name for member in self._rows.members}
        people = self._client.peers(self._session)
        self._devices |= {peer["id"]: peer["device"] for peer in people["connected"]}
        self._rows.set_members(
            {**member, "device": self._devices.get(member["member"], "")} for member in people["members"]
        )
        self._spec = self._client.spec(self._session)
        return any(before.get(member.member, member.name) != member.name for member in self._rows.members)
