"""What waits to be sent on one connection: control messages, which overtake, and uploads, which are pulled lazily."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ..protocol.errors import LinkError
from ..protocol.messages import Heartbeat, Message, encode
from .timing import Pulse
from .wire import BINARY, CLOSE, TEXT, Parts, Writer, size_of


class Upload:
    """Frames on their way, in order. `done` is set when all were handed to the socket, or none will be any more.

    `bytes` counts the frames' bytes sent so far. `error` says why it ended early: a `LinkError` when the connection
    was lost, or whatever the iterable raised; None while under way, when complete, and when cancelled.
    """

    def __init__(self, frames: Iterable[Parts]) -> None:
        self._frames: Iterator[Parts] = iter(frames)
        self.done = threading.Event()
        self.error: Exception | None = None
        self.cancelled = False
        self.bytes = 0

    def cancel(self) -> None:
        """Send no further frame; one that is being sent is completed. Does not wait: see `done`."""
        self.cancelled = True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `done`; whether it is."""
        return self.done.wait(timeout)

    def pull(self) -> Parts | None:
        """The next frame, or None at the end. For the sending thread."""
        if self.cancelled:
            return None
        try:
            return next(self._frames, None)
        except Exception as error:
            self.error = error
            return None

    def end(self, error: Exception | None = None) -> None:
        """No more frames are taken. For the sending thread."""
        if self.done.is_set():
            return
        self.error = self.error or (None if self.cancelled else error)
        close = getattr(self._frames, "close", None)
        try:
            if close is not None:
                close()
        except Exception as failed:
            self.error = self.error or failed
        self.done.set()


class Outbox:
    """The queues of one connection, and the loop that empties them. All methods but `run` are for any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._control: deque[tuple[int, bytes]] = deque()
        self._uploads: deque[Upload] = deque()
        self._finishing = False
        self._closed = False

    def send(self, message: Message) -> bool:
        """Queue a message ahead of all frames. False: this connection takes no more."""
        return self.control(TEXT, encode(message).encode())

    def control(self, opcode: int, payload: bytes) -> bool:
        """Queue a WebSocket frame ahead of all uploads. False: this connection takes no more."""
        with self._changed:
            if self._finishing or self._closed:
                return False
            self._control.append((opcode, payload))
            self._changed.notify()
            return True

    def add(self, upload: Upload) -> bool:
        """Queue an upload behind the others. False: this connection takes no more."""
        with self._changed:
            if self._finishing or self._closed:
                return False
            self._uploads.append(upload)
            self._changed.notify()
            return True

    def finish(self, last: Message | None = None) -> None:
        """Send what control there is, then `last`, then a WebSocket close frame; uploads end where they are."""
        with self._changed:
            if self._finishing or self._closed:
                return
            if last is not None:
                self._control.append((TEXT, encode(last).encode()))
            self._control.append((CLOSE, (1000).to_bytes(2, "big")))
            self._finishing = True
            self._changed.notify()

    def close(self) -> None:
        """Stop at once. Uploads that are left end with a `LinkError`."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def run(self, writer: Writer, pulse: Pulse, clock: Callable[[], float] = time.monotonic) -> None:
        """Send until finished or closed; the sending thread's main function. Raises OSError."""
        try:
            upload, frame = None, None
            while not self._closed:
                if pulse.due(clock()):
                    self.send(Heartbeat())
                self._send_control(writer)
                if self._finishing and not self._control:
                    return
                if upload is not None and frame is not None and not upload.cancelled:
                    writer.write(BINARY, frame)
                    upload.bytes += size_of(frame)
                upload = self._next_upload(pulse.rest(clock()))
                frame = upload.pull() if upload is not None else None
                if upload is not None and frame is None:
                    self._uploads.popleft()
                    upload.end()
        finally:
            self._end_uploads()

    def _send_control(self, writer: Writer) -> None:
        while self._control and not self._closed:
            writer.write(*self._control[0])
            self._control.popleft()

    def _next_upload(self, patience: float) -> Upload | None:
        with self._changed:
            if not (self._control or self._uploads or self._finishing or self._closed):
                self._changed.wait(patience)
            return self._uploads[0] if self._uploads and not self._finishing else None

    def _end_uploads(self) -> None:
        with self._changed:
            self._closed = True
        # Nothing is added from here on.
        while self._uploads:
            self._uploads.popleft().end(LinkError("The upload was cut off.", "The connection to the server ended."))
