"""The background thread that trains: it takes what comes from the inbox and lets the `Member` answer.

It never prints: what people should know goes into the `Record`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from torch import nn

from .. import __version__
from ..link import Link, State, Timing
from ..protocol.errors import LinkError, SwarmError
from ..protocol.messages import PROTOCOL_VERSION, Hello, Welcome
from ..protocol.rules import Codec
from .arrivals import SnapshotArrived
from .compute import Computer
from .identity import Identity
from .inbox import Ended, Inbox, Item, Leave, Lost, Pause, Resume
from .member import Member
from .memory import memory_of
from .record import Record
from .residual_file import ResidualFile


class Trainer:
    """One membership, from `start` to `leave`.

    url, headers: of the WebSocket. agreed: the SHA-256 of the recipe that `computer` runs. name: as others see it.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        computer: Computer,
        record: Record,
        identity: Identity,
        agreed: str,
        name: str = "",
        timing: Timing = Timing(),
    ) -> None:
        self.record = record
        self._computer = computer
        self._identity = identity
        self._agreed = agreed
        self._name = name
        self._inbox = Inbox()
        self._member: Member | None = None
        self._link = Link(url, headers, self._hello, self._inbox.put, self._take_frame, self._link_state, timing)
        self._thread = threading.Thread(target=self._run, name="swarm-trainer", daemon=True)
        computer.say = record.note
        record.set(device=str(computer.device))

    def start(self) -> None:
        """Connect and train, in the background."""
        self._link.start()
        self._thread.start()

    def pause(self, reason: str = "paused here") -> None:
        """Take no more work; stay in the session."""
        self._inbox.put(Pause(reason))

    def resume(self) -> None:
        """Go on after a pause."""
        self._inbox.put(Resume())

    def leave(self, timeout: float = 10.0) -> bool:
        """Give leases back, say goodbye, end the threads. Whether they ended within `timeout` seconds."""
        self._inbox.put(Leave())
        if threading.current_thread() is not self._thread and self._thread.ident is not None:
            self._thread.join(timeout)
        # Where recipe code does not return, the session at least must not wait for it.
        self._link.close("left")
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the background thread runs."""
        return self._thread.is_alive()

    def digest(self) -> str:
        """SHA-256 of the whole view; the same on all peers at the same version. '' before the first parameters."""
        return self._member.view.digest() if self._member else ""

    def copy_to(self, model: nn.Module) -> bool:
        """Give the shared numbers of now to `model`, built by the recipe. False: they are not here yet."""
        return self._member is not None and self._member.view.copy_to(model)

    # --- the link's thread

    def _hello(self) -> Hello:
        member = self._member
        return Hello(
            PROTOCOL_VERSION,
            __version__,
            "peer",
            self._name,
            agreed=self._agreed,
            # Unknown at first: the welcome brings the layout, and a difference can then be named.
            layout_digest=member.layout.digest if member else "",
            token=self._identity.token,
            generation=member.generation if member else 0,
            version=member.view.version if member else -1,
            device=str(self._computer.device),
            own_samples=self._computer.own_samples,
            codecs=tuple(Codec),
            free_memory=memory_of(self._computer.device).free,
        )

    def _take_frame(self, frame: memoryview) -> None:
        if self._member is not None:
            self._member.arrivals.take(frame)

    def _link_state(self, state: State, reason: str) -> None:
        if state == "lost":
            self._inbox.put(Lost(reason))
        elif state in ("refused", "closed"):
            self._inbox.put(Ended(self._link.error))
        elif state == "connecting":
            self._connecting(reason)

    def _connecting(self, reason: str) -> None:
        # Whatever becomes of the server of a session that has finished.
        if self.record.status.state != "finished":
            self.record.set(state="connecting", reason=reason)

    def _residual_file(self) -> ResidualFile | None:
        path = self._identity.residual
        return ResidualFile(path, self.record.note) if path is not None else None

    # --- the training thread

    def _run(self) -> None:
        try:
            while True:
                item = self._inbox.get()
                if isinstance(item, Leave):
                    break
                self._take(item)
        except SwarmError as error:
            self.record.fail(error)
        except Exception as error:
            self.record.fail(
                SwarmError("The trainer failed.", f"{type(error).__name__}: {error}", "Report this, then join again.")
            )
        finally:
            if self._member is not None:
                self._member.arrivals.close()
            self._link.close("left" if self.record.error is None else str(self.record.error))
            if self._member is not None:
                self._member.residual.end(kept=self.record.error is None)
            self._identity.release()
            self.record.set(state="left", reason="")

    def _take(self, item: Item) -> None:
        member = self._member
        if isinstance(item, Welcome):
            self._identity.keep(item.token)
            if member is None:
                residual = self._computer.first_residual(self._residual_file())
                member = self._member = Member(self._link, self.record, self._computer, item, self._inbox, residual)
            member.welcome(item)
        elif isinstance(item, Lost):
            self._connecting(item.reason)
        elif isinstance(item, Ended):
            raise item.error or LinkError("The connection to the server has ended.", todo="Join again.")
        elif member is None:
            return
        elif isinstance(item, SnapshotArrived):
            member.snapshot_arrived(item)
        elif isinstance(item, Pause):
            member.pause(item.reason)
        elif isinstance(item, Resume):
            member.resume()
        elif not isinstance(item, Leave):
            member.handle(item)
