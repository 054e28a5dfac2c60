"""`Link`: the kernel's one connection to the server, which comes back by itself.

Two threads: one connects, receives and calls back; the other sends. Only numbers and text cross it: what they mean is
the peer's business.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

from ..protocol.errors import LinkError, SessionError, SwarmError
from ..protocol.messages import Goodbye, Heartbeat, Hello, Message, Refused, ToMember, encode, read_to_member
from .opening import Opened, Unreachable, open_websocket
from .sending import Outbox, Upload
from .timing import Backoff, Pulse, Timing
from .wire import CLOSE, PING, PONG, TEXT, Parts, Reader, Violation, Writer

MOST_WANTED = 1 << 20
"""So many characters are sent at most to a server that measures the link."""
T = TypeVar("T")
State = Literal["connecting", "connected", "lost", "refused", "closed"]


class _ServerClosed(Exception):
    pass


class _CallbackFailed(Exception):
    pass


def _sentences(*parts: str) -> str:
    return " ".join(part.rstrip(".") + "." for part in parts if part)


class Link:
    """One connection to a server, made again whenever it is lost, with a new `hello()` each time.

    url: ws:// or wss://. headers: sent with each handshake, kept out of every log. hello: what to say first on each
    connection; called on the receiving thread. on_message: each message of the server but heartbeats and refusals.
    on_frame: each binary frame, whole, in memory of its own, which the callback may keep and which is aligned to 64
    bytes. Both are called on the receiving thread and hold up receiving, which in turn holds up the server: that is the
    back-pressure. An exception in a callback ends the link with that error.

    on_state(state, reason), from the same thread: "connecting" (also: why it did not work and when the next try is,
    as long as there has been no connection), "connected", "lost" (why, and seconds until the next try), "refused"
    (another try cannot help, `error` says why: an `InviteError`, `SessionError`, `LinkError`, or a `ProtocolError`
    for messages of another version), "closed" (by `close`, or with an `error`). After the last two nothing follows.

    `bytes_sent` and `bytes_received` count what WebSocket puts on the wire over all connections: payloads and frame
    headers, without the handshakes and without what TLS and TCP add.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        hello: Callable[[], Hello],
        on_message: Callable[[ToMember], None],
        on_frame: Callable[[memoryview], None],
        on_state: Callable[[State, str], None],
        timing: Timing = Timing(),
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.url = url
        self._headers = dict(headers)
        self._hello = hello
        self._on_message = on_message
        self._on_frame = on_frame
        self._on_state = on_state
        self._timing = timing
        self._backoff = Backoff(timing, draw)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swarm-link", daemon=True)
        self._outbox: Outbox | None = None
        self._socket: socket.socket | None = None
        self._reader: Reader | None = None
        self._writer: Writer | None = None
        self._earlier = [0, 0]
        self._ever_connected = False
        self._goodbye = ""
        self.state: State = "connecting"
        self.error: Exception | None = None

    def __repr__(self) -> str:
        return f"<Link to {self.url}: {self.state}>"

    # --- for the peer, on any thread

    def start(self) -> None:
        """Begin to connect. Returns at once."""
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the first connection. Raises what ended the link, or `LinkError` after `timeout` seconds."""
        if not self._settled.wait(timeout):
            raise LinkError("There is no connection to the server yet.", todo="Wait, or check the link.")
        if self.state in ("refused", "closed"):
            raise self.error or LinkError("The connection to the server was closed by this process.")

    def send(self, message: Message) -> bool:
        """Queue a message, ahead of all frames; never blocks.

        False: there is no connection, the message is dropped. What it said belongs to a conversation that is over:
        the next connection begins with `hello()`.
        """
        outbox = self._outbox
        return outbox is not None and outbox.send(message)

    def send_frames(self, frames: Iterable[Parts]) -> Upload:
        """Send frames, in order, after the uploads before it.

        The sending thread asks the iterable for a frame when the one before it has left, so computing a frame overlaps
        with the network's work on the last one, and a buffer may be used again for the next. A lost connection ends
        the upload with a `LinkError`; so does calling this without one.
        """
        upload = Upload(frames)
        outbox = self._outbox
        if outbox is None or not outbox.add(upload):
            upload.end(LinkError("Nothing was uploaded.", "There is no connection to the server."))
        return upload

    def close(self, reason: str = "") -> None:
        """Say goodbye if connected, and end. Returns after at most two times `timing.farewell`; may be repeated."""
        with self._lock:
            first = not self._closing.is_set()
            if first:
                self._goodbye = reason
            self._closing.set()
            outbox = self._outbox
        if first and outbox is not None:
            outbox.finish(Goodbye(reason=reason))
        elif outbox is None:
            self._cut()
        if self._thread.ident is None:
            if first:
                self._end("closed", reason or "closed before it was started")
            return
        if threading.current_thread() is self._thread:
            return
        self._thread.join(self._timing.farewell)
        if self._thread.is_alive():
            self._cut()
            self._thread.join(self._timing.farewell)

    @property
    def bytes_sent(self) -> int:
        """Bytes handed to the sockets, framing included."""
        with self._lock:
            return self._earlier[0] + (self._writer.count if self._writer else 0)

    @property
    def bytes_received(self) -> int:
        """Bytes taken from the sockets, framing included."""
        with self._lock:
            return self._earlier[1] + (self._reader.count if self._reader else 0)

    # --- the receiving thread

    def _run(self) -> None:
        try:
            self._keep_connected()
            self._end("closed", self._goodbye or "closed")
        except Unreachable as error:
            self.error = error
            self._end("closed", str(error))
        except SwarmError as error:
            self.error = error
            self._end("refused", str(error))
        except Exception as failed:
            # Among them an error that a callback raised.
            self.error = failed.args[0] if isinstance(failed, _CallbackFailed) else failed
            self._end("closed", f"The connection was given up because of an error in this process: {self.error}")

    def _keep_connected(self) -> None:
        """Connect, converse, wait, again; returns when closed. Raises what another try cannot mend."""
        give_up = time.monotonic() + self._timing.connect
        while not self._closing.is_set():
            self._tell("connecting", f"Connecting to {self.url}.")
            try:
                self._converse(open_websocket(self.url, self._headers, self._timing.handshake, self._register))
            except Unreachable as error:
                if self._closing.is_set():
                    return
                delay = self._backoff.next()
                if not self._ever_connected and time.monotonic() + delay > give_up:
                    raise Unreachable(
                        f"The server could not be reached within {self._timing.connect:.0f} s.",
                        _sentences(error.what, error.why),
                        error.todo or "Check the link and this machine's network, and that the server runs.",
                    ) from None
                state: State = "lost" if self._ever_connected else "connecting"
                self._tell(state, _sentences(error.what, error.why, error.todo, f"Next try in {delay:.1f} s"))
                self._closing.wait(delay)

    def _converse(self, opened: Opened) -> None:
        """One connection, from the hello to its end. Raises `Unreachable` with the reason unless closed by us."""
        opened.socket.settimeout(self._timing.silence)
        reader, writer, outbox = Reader(opened.stream), Writer(opened.socket), Outbox()
        sending = threading.Thread(target=self._send, args=(outbox, writer), name="swarm-link-send", daemon=True)
        try:
            writer.write(TEXT, encode(self._call(self._hello)).encode())
            with self._lock:
                if self._closing.is_set():
                    return
                self._reader, self._writer, self._outbox = reader, writer, outbox
            sending.start()
            self._ever_connected = True
            self._tell("connected", f"Connected to {self.url}.")
            self._settled.set()
            self._receive(reader, outbox)
        except _ServerClosed as closed:
            raise Unreachable("The server closed the connection.", str(closed)) from None
        except Violation as error:
            raise Unreachable(error.what, error.why) from None
        except TimeoutError:
            raise Unreachable(f"Nothing was heard from the server for {self._timing.silence:.0f} s.") from None
        except (EOFError, OSError, ValueError) as error:
            raise Unreachable("The connection broke.", str(error)) from None
        finally:
            self._hang_up(opened, outbox, sending)

    def _receive(self, reader: Reader, outbox: Outbox) -> None:
        def on_control(opcode: int, payload: bytes) -> None:
            if opcode == PING:
                outbox.control(PONG, payload)
            elif opcode == CLOSE:
                outbox.finish()
                raise _ServerClosed(payload[2:].decode("utf-8", "replace"))

        while True:
            opcode, payload = reader.read(on_control)
            if opcode != TEXT:
                self._call(self._on_frame, payload)
                continue
            message = read_to_member(bytes(payload))
            if isinstance(message, Refused):
                words = (message.what, message.why, message.todo)
                raise Unreachable(*words) if message.retry else SessionError(*words)
            if isinstance(message, Heartbeat):
                if message.ask:
                    # At once, whatever the peer does: the server measures the link by it.
                    outbox.send(Heartbeat(answer=message.ask, filler="." * min(message.wanted, MOST_WANTED)))
            else:
                self._backoff.reset()
                self._call(self._on_message, message)

    def _hang_up(self, opened: Opened, outbox: Outbox, sending: threading.Thread) -> None:
        with self._lock:
            self._outbox = None
        if sending.ident is not None:
            # An answering close frame, or the goodbye, may still be on its way out.
            outbox.finish()
            sending.join(self._timing.farewell)
            outbox.close()
        self._cut()
        if sending.ident is not None:
            # Not for ever: it may be waiting for the next frame of an upload.
            sending.join(self._timing.farewell)
        opened.stream.close()
        opened.socket.close()
        with self._lock:
            self._socket = None
            self._earlier[0] += self._writer.count if self._writer else 0
            self._earlier[1] += self._reader.count if self._reader else 0
            self._reader = self._writer = None

    def _register(self, sock: socket.socket) -> None:
        with self._lock:
            self._socket = sock
        if self._closing.is_set():
            raise Unreachable("The link was closed.")

    def _cut(self) -> None:
        """Make every call on the socket return, on whatever thread."""
        with self._lock:
            if self._socket is not None:
                # Not SSLSocket.shutdown, which would let the other thread go on in plain text.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _call(self, callback: Callable[..., T], *arguments: object) -> T:
        """Call the peer's code, whose errors must not look like those of a socket."""
        try:
            return callback(*arguments)
        except Exception as error:
            raise _CallbackFailed(error) from error

    def _tell(self, state: State, reason: str) -> None:
        self.state = state
        self._call(self._on_state, state, reason)

    def _end(self, state: State, reason: str) -> None:
        self.state = state
        self._settled.set()
        try:
            self._on_state(state, reason)
        except Exception as error:
            self.error = self.error or error

    # --- the sending thread

    def _send(self, outbox: Outbox, writer: Writer) -> None:
        try:
            outbox.run(writer, Pulse(self._timing, time.monotonic()))
        except (OSError, ValueError):
            # The receiving thread finds the same, and says why.
            self._cut()
