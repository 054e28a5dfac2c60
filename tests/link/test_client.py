"""`Link` against a real tornado server on 127.0.0.1."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from jupyter_swarm.coordinator.connection import PROBE_BYTES
from jupyter_swarm.link import Link, Timing
from jupyter_swarm.link.client import MOST_WANTED
from jupyter_swarm.link.timing import Found
from jupyter_swarm.protocol.errors import InviteError, LinkError, SessionError
from jupyter_swarm.protocol.frames import MAX_FRAME_BYTES
from jupyter_swarm.protocol.messages import Goodbye, Heartbeat, Hello, Refused, WantWork, encode
from tests.link.loopback import PATIENCE, QUICK, Member, Server, member, serving

WORK = WantWork(generation=1, version=7)


def url_of(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}/"


def link_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("swarm-link")]


def test_frames_come_back_bit_by_bit_the_same(server: Server) -> None:
    sizes = [1, 125, 126, 65535, 65536, 1 << 20, MAX_FRAME_BYTES]
    frames = [os.urandom(size) for size in sizes]
    with member(url_of(server)) as one:
        one.expect("connected")
        upload = one.link.send_frames(frames)
        assert [one.frames.get(timeout=PATIENCE) for _ in frames] == frames
        assert upload.wait(PATIENCE)
        assert (upload.error, upload.bytes) == (None, sum(sizes))
        assert one.link.bytes_sent > sum(sizes)
        assert one.link.bytes_received > sum(sizes)


def test_hello_is_first_and_headers_go_with_the_handshake(server: Server) -> None:
    with member(url_of(server), headers={"X-Swarm-Invite": "secret-1"}) as one:
        one.link.wait(PATIENCE)
        assert one.link.send(WORK)
        assert server.expect("headers")["X-Swarm-Invite"] == "secret-1"
        assert server.expect("message") == one.hello()
        assert server.expect("message") == WORK
        assert one.messages.get(timeout=PATIENCE).reason == "hello"


def test_secrets_are_not_shown(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    with member(url_of(server), headers={"X-Swarm-Invite": "secret-1"}) as one:
        one.expect("connected")
        assert "secret-1" not in repr(one.link)
    assert "secret-1" not in caplog.text


def test_control_overtakes_a_long_upload(server: Server) -> None:
    server.call(server.gate.clear)
    count = 64
    with member(url_of(server)) as one:
        one.expect("connected")
        upload = one.link.send_frames(bytes(1 << 20) for _ in range(count))
        server.expect("message")
        # The first frame holds the server up; the sockets' buffers fill, and most frames have not left.
        assert one.link.send(WORK)
        server.call(server.gate.set)
        kinds = []
        while len(kinds) < count + 1:
            kind, _ = server.events.get(timeout=PATIENCE)
            kinds.append(kind)
        assert kinds.count("message") == 1
        assert kinds.index("message") < count
        assert upload.wait(PATIENCE)


def test_a_cancelled_upload_stops_and_the_link_goes_on(server: Server) -> None:
    server.call(server.gate.clear)
    with member(url_of(server)) as one:
        one.expect("connected")
        pulled = threading.Semaphore(0)

        def frames() -> Iterator[bytes]:
            while True:
                pulled.release()
                yield bytes(1 << 20)

        upload = one.link.send_frames(frames())
        assert pulled.acquire(timeout=PATIENCE)
        assert pulled.acquire(timeout=PATIENCE)
        upload.cancel()
        server.call(server.gate.set)
        assert upload.wait(PATIENCE)
        assert upload.error is None
        assert upload.bytes % (1 << 20) == 0
        last = one.link.send_frames([b"last"])
        while one.frames.get(timeout=PATIENCE) != b"last":
            pass
        assert last.wait(PATIENCE)


def test_dropped_by_the_server_it_comes_back_with_its_token(server: Server) -> None:
    with member(url_of(server)) as one:
        assert server.expect("message").token == "token-1"
        one.token = "token-2"
        one.expect("connected")
        server.call(server.sockets[0].connection.close, "maintenance")
        reason = one.expect("lost")
        assert "maintenance" in reason
        assert "Next try in 0.0 s" in reason
        assert server.expect("message").token == "token-2"
        one.expect("connected")
        one.link.send(WORK)
        assert server.expect("message") == WORK


def test_an_upload_on_a_connection_that_breaks_ends_with_an_error(server: Server) -> None:
    server.call(server.gate.clear)
    with member(url_of(server)) as one:
        one.expect("connected")
        upload = one.link.send_frames(bytes(1 << 20) for _ in range(100))
        server.expect("message")
        server.call(server.sockets[0].ws_connection.abort)
        assert upload.wait(PATIENCE)
        assert isinstance(upload.error, LinkError)


def test_the_server_goes_and_comes_back_on_its_port() -> None:
    with serving() as first:
        one = Member(url_of(first))
        one.link.start()
        one.expect("connected")
    try:
        one.expect("lost")
        assert not one.link.send(WORK)
        assert isinstance(one.link.send_frames([b"x"]).error, LinkError)
        with serving(port=first.port) as second:
            assert second.expect("message").token == "token-1"
            one.expect("connected")
            one.link.close()
    finally:
        one.link.close()


def test_a_server_not_there_yet_is_reported_and_waited_for() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with member(f"ws://127.0.0.1:{port}/") as one:
        assert one.expect("connecting") == f"Connecting to ws://127.0.0.1:{port}/."
        reason = one.expect("connecting")
        assert f"127.0.0.1, port {port}, cannot be reached" in reason
        assert "Next try in" in reason
        with serving(port=port):
            one.link.wait(PATIENCE)
            one.link.close()


def test_a_server_that_never_comes_ends_the_link() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with member(
            f"ws://127.0.0.1:{reserved.getsockname()[1]}/", timing=Timing(connect=0.1, first_delay=0.05)
        ) as one:
            assert "could not be reached" in one.expect("closed")
            with pytest.raises(LinkError, match="What to do: Check the link"):
                one.link.wait()


@pytest.mark.parametrize(
    ("status", "kind"), [(401, InviteError), (403, InviteError), (404, SessionError), (410, SessionError)]
)
def test_statuses_that_no_other_try_can_mend(server: Server, status: int, kind: type[Exception]) -> None:
    server.refusal = (status, "")
    with member(url_of(server)) as one:
        one.expect("refused")
        with pytest.raises(kind):
            one.link.wait()
    assert not link_threads()


def test_a_refusal_in_the_body_of_the_answer_is_taken_at_its_word(server: Server) -> None:
    server.refusal = (403, encode(Refused(what="The session is full.", todo="Wait for a place.")))
    with member(url_of(server)) as one:
        assert one.expect("refused") == "The session is full.\nWhat to do: Wait for a place."
        assert isinstance(one.link.error, InviteError)


def test_other_statuses_are_tried_again(server: Server) -> None:
    server.refusal = (502, "")
    with member(url_of(server)) as one:
        one.expect("connecting")
        assert "502 Bad Gateway" in one.expect("connecting")
        server.refusal = None
        one.link.wait(PATIENCE)


@pytest.mark.parametrize("retry", [False, True])
def test_refused_in_conversation(server: Server, retry: bool) -> None:
    with member(url_of(server)) as one:
        server.expect("opened")
        one.expect("connected")
        refusal = SessionError("Removed by the instructor.", "Too slow.", "Join again tomorrow.")
        server.call(server.sockets[0].connection.refuse, refusal, retry)
        if retry:
            assert "Removed by the instructor. Too slow." in one.expect("lost")
            one.expect("connected")
        else:
            assert one.expect("refused") == str(refusal)
            with pytest.raises(SessionError, match="tomorrow"):
                one.link.wait()


def test_closing_says_goodbye_and_leaves_no_thread(server: Server) -> None:
    one = Member(url_of(server))
    one.link.start()
    one.expect("connected")
    one.link.close("lunch")
    assert not link_threads()
    server.expect("message")
    assert server.expect("message") == Goodbye(reason="lunch")
    assert server.expect("lost")
    assert one.expect("closed") == "lunch"
    one.link.close()
    assert not one.link.send(WORK)
    with pytest.raises(LinkError):
        one.link.wait()


def test_closing_in_the_middle_of_an_upload_that_nobody_takes(server: Server) -> None:
    server.call(server.gate.clear)
    one = Member(url_of(server), timing=Timing(farewell=0.2))
    one.link.start()
    one.expect("connected")
    upload = one.link.send_frames(bytes(1 << 20) for _ in range(200))
    server.expect("message")
    one.link.close()
    assert upload.wait(PATIENCE)
    assert isinstance(upload.error, LinkError)
    assert not link_threads()
    server.call(server.gate.set)


def test_closing_while_connecting_to_a_machine_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        one = Member(f"ws://127.0.0.1:{mute.getsockname()[1]}/")
        one.link.start()
        one.expect("connecting")
        conversation, _ = mute.accept()
        with conversation:
            one.link.close()
            one.expect("closed")
            assert not link_threads()


def test_closing_from_a_callback(server: Server) -> None:
    states: queue.Queue[str] = queue.Queue()
    link: Link

    def hello() -> Hello:
        return Hello(protocol=1, software="test", role="peer", name="ann")

    link = Link(
        url_of(server), {}, hello, lambda message: link.close(), lambda frame: None, lambda state, _: states.put(state)
    )
    link.start()
    while states.get(timeout=PATIENCE) != "closed":
        pass
    assert link.error is None


def test_an_error_in_a_callback_ends_the_link_with_it(server: Server) -> None:
    one = Member(url_of(server))
    one.link._on_message = lambda message: {}[message]
    one.link.start()
    assert "an error in this process" in one.expect("closed")
    with pytest.raises(KeyError):
        one.link.wait()
    one.link.close()


def test_an_address_that_is_none_ends_the_link() -> None:
    one = Member("gopher://127.0.0.1/")
    one.link.start()
    assert "gopher" in one.expect("closed")
    one.link.close()


def test_heartbeats_go_both_ways_and_are_kept_from_the_callbacks(server: Server) -> None:
    server.timing = Timing(heartbeat=0.05)
    with member(url_of(server), timing=Timing(heartbeat=0.05)) as one:
        one.expect("connected")
        heard = server.expect("opened").connection
        first = heard.bytes_received
        received = one.link.bytes_received
        waiting = threading.Event()
        while heard.bytes_received == first or one.link.bytes_received < received + 100:
            assert not waiting.wait(0.01)
        assert one.messages.get(timeout=PATIENCE).reason == "hello"
        assert one.messages.empty()


def test_a_server_that_falls_silent_is_lost() -> None:
    with serving() as server, member(url_of(server), timing=Timing(silence=0.3, first_delay=0.02)) as one:
        one.expect("connected")
        assert "Nothing was heard from the server" in one.expect("lost")
        one.expect("connected")


def test_messages_this_version_does_not_know_end_the_link(server: Server) -> None:
    with member(url_of(server)) as one:
        one.expect("connected")
        server.call(server.expect("opened").connection._queue, b'{"type":"novelty"}')
        assert "Install the same jupyter_swarm version" in one.expect("refused")


def test_a_member_that_falls_silent_is_lost_to_the_server(server: Server) -> None:
    server.timing = Timing(silence=0.2, heartbeat=0.05)
    with member(url_of(server)) as one:
        one.expect("connected")
        assert "Nothing was heard" in server.expect("lost")
        one.expect("lost")


def test_a_question_is_answered_at_once_with_as_much_as_was_asked_for(server: Server) -> None:
    """By the link itself: the thread that trains has no part in it."""
    found: queue.Queue[Found] = queue.Queue()
    with member(url_of(server), timing=QUICK) as one:
        one.expect("connected")
        connection = server.expect("opened").connection
        server.call(connection.measure, found.put)
        seen = [found.get(timeout=PATIENCE) for _ in range(3)]
        assert [each.what for each in seen] == ["round trip", "down", "up"]
        assert [each.bytes for each in seen] == [0, PROBE_BYTES, PROBE_BYTES]
        server.call(connection.send_frame, bytes(1 << 20))
        arrived = found.get(timeout=PATIENCE)
        assert arrived.what == "down"
        assert arrived.bytes > 1 << 20
        assert one.messages.qsize() == 1, "the status that answers the hello, and no heartbeat"


def test_a_server_cannot_ask_for_as_much_as_it_likes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with member(url_of(server), timing=QUICK) as one:
        one.expect("connected")
        connection = server.expect("opened").connection
        answers: queue.Queue[Heartbeat] = queue.Queue()
        monkeypatch.setattr(connection, "answered", answers.put)
        server.call(connection.send, Heartbeat(ask=1, wanted=10**12))
        assert len(answers.get(timeout=PATIENCE).filler) == MOST_WANTED


def test_a_heartbeat_is_not_a_message_to_the_handler(server: Server) -> None:
    with member(url_of(server), timing=QUICK) as one:
        one.expect("connected")
        one.link.send(Heartbeat())
        one.link.send(WORK)
        assert [server.expect("message") for _ in range(2)] == [one.hello(), WORK]
