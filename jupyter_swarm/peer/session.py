"""`Session`: what a notebook holds of a session it hosts or has joined."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import torch

from ..protocol.errors import InviteError, SessionError, SettingError, SwarmError
from ..protocol.invites import Invite, Role
from ..protocol.standing import SteerAction
from ..shards.memory import machine_memory
from ..strategies import Strategy
from .checkpoints import Checkpoint, checkpoint_of, checkpoints_of
from .client import Client
from .compute import Computer
from .data import Samples
from .forward import Forward
from .progress import Line
from .recipe import Recipe
from .record import OVER, Record, Status
from .showing import Showing
from .steering import id_of, rule_for, settings_of
from .trainer import Trainer

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from ..history import RunCard
    from ..history.runs import Axis
    from .past import Past

_POLL_SECONDS = 1.0
_OVERVIEW_ROUNDS = 200


class Session:
    """One session, seen from here. Training runs in the background; nothing here needs a running cell.

    id: its name on the server. recipe: what it trains. model: the live model of this kernel; training changes it from
    round to round, so copy what you want to keep. Made by `host` and `join`.
    """

    def __init__(
        self, id_: str, recipe: Recipe, client: Client, computer: Computer, record: Record, trainer: Trainer | None
    ) -> None:
        self.id = id_
        self.recipe = recipe
        self._client = client
        self._computer = computer
        self._record = record
        self._trainer = trainer
        self._shared: torch.nn.Module | None = None
        self._sharing = threading.Lock()
        self._showing: Showing | None = None
        self._pasts: dict[int, Past] = {}

    @property
    def model(self) -> torch.nn.Module:
        """The live model. Where this kernel does not train it is the model that the session began with."""
        return self._computer.model

    @property
    def trains(self) -> bool:
        """Whether this kernel is a peer of the session now."""
        return self._trainer is not None and self._trainer.alive

    @property
    def left(self) -> bool:
        """Whether this kernel was a peer of the session and has left it, or was put out."""
        return self._record.status.state in OVER

    @property
    def role(self) -> str:
        """Who asks from here, as the server sees it: owner, instructor, peer."""
        return str(self._client.describe(self.id)["your_role"])

    @property
    def outside(self) -> bool | None:
        """Whether anybody has connected from another machine so far; None: the server does not say."""
        found: bool | None = self._client.describe(self.id).get("outside")
        return found

    # --- what was

    def history(self) -> xr.Dataset:
        """Every round of the session, also from before this kernel joined, by `round` and `peer`; see
        `jupyter_swarm.history`. The server tells it: with none, `LinkError`."""
        return self._dataset(0)

    def overview(self) -> xr.Dataset:
        """The history in some 200 rounds: of a longer one, older rounds are counted together with those beside them,
        under the last one's number. For pictures that are drawn again and again: it does not grow."""
        return self._dataset(_OVERVIEW_ROUNDS)

    def _dataset(self, most: int) -> xr.Dataset:
        from .past import Past  # xarray and pandas: whoever only trains needs neither

        if most not in self._pasts:
            self._pasts[most] = Past(self._client, self.id, self.recipe.source, most)
        return self._pasts[most].dataset()

    def plot(self, x: Axis = "round", **options: Any) -> Figure:
        """The history as a figure, by "round", "samples" or "time"; options as of `history().swarm.plot`."""
        figure: Figure = self.history().swarm.plot(x, **options)
        return figure

    def card(self) -> RunCard:
        """What explains the run afterwards: recipe, settings, versions, peers, totals; as Markdown in a notebook."""
        card: RunCard = self.history().swarm.card
        return card

    def events(self) -> list[dict[str, Any]]:
        """The session's log: unix_time, round, level, member (its id, or ''), text."""
        return self._client.events(self.id)

    def peers(self) -> list[dict[str, Any]]:
        """Who is connected: name, device, state, reason, speed (samples/s), share, bytes, as the server sees it; of the
        link what it has measured: up and down (bytes/s), round_trip (s); step_seconds, free_memory (bytes)."""
        found: list[dict[str, Any]] = self._client.peers(self.id, here=True)["connected"]
        return found

    def find_peers(self, name: str, most: int) -> tuple[list[dict[str, Any]], int]:
        """At most so many of those who are connected and have `name` in theirs, as `peers` lists them, those first who
        are steered; and how many they are."""
        found = self._client.peers(self.id, name, here=True, most=most)
        return found["connected"], found["count"]

    # --- what is

    def status(self) -> Status:
        """What is going on, and why nothing moves when nothing does."""
        if self._trainer is not None:
            return self._record.status
        described = self._client.describe(self.id)
        seen = described["status"]
        if seen is None:
            return Status(state="finished", reason=described["problem"], session=self.id)
        return Status(
            state=seen["state"],
            reason=seen["reason"],
            session=self.id,
            name="host",
            version=seen["version"],
            rounds=seen["rounds"],
            samples_done=seen["samples_done"],
            loss=seen["metrics"].get("loss"),
            metrics={
                name.removeprefix("held_out_"): value for name, value in seen["metrics"].items() if name != "loss"
            },
        )

    # --- this kernel

    def pause(self) -> None:
        """This kernel takes no more work but stays in the session; the others go on."""
        self._must_trainer().pause()

    def resume(self) -> None:
        """This kernel takes work again."""
        self._must_trainer().resume()

    def leave(self, timeout: float = 10.0) -> None:
        """Give back what this kernel was to compute, close the connection, end all threads. May be called again."""
        if self._trainer is not None and not self._trainer.leave(timeout):
            self._record.note("The recipe's code does not return; its thread ends when it does.")

    def digest(self) -> str:
        """SHA-256 over all shared numbers of this kernel; at one version they are the same on all peers."""
        return self._must_trainer().digest()

    def sample(self, prompt: str = "") -> str:
        """What the shared parameters of now make of `prompt`, by the recipe's `sample`. Training goes on meanwhile.

        What the session's host has the model write is shown to all who watch. Raises `RecipeError` for a recipe that
        cannot sample, `SessionError` before the first parameters are here.
        """
        text, round = self._sample(prompt)
        if self._showing is not None:
            self._showing.asked(prompt, text, round)
        return text

    def show_samples(self) -> None:
        """From now on all who watch see what the model writes after each evaluation, if the recipe can sample and this
        machine has the memory for one more model. For whoever hosts the session."""
        trained = self._trainer is not None and self.recipe.sample is not None
        if trained and self._showing is None and 8 * self._computer.layout.elements < machine_memory().free:
            self._showing = Showing(self._record, self._sample, partial(self._client.show, self.id))
            self._showing.start()

    def evaluate(self, limit: int = 2000) -> dict[str, float]:
        """Loss and metrics of the shared parameters of now, over `limit` held-out samples at most, measured here.
        Training goes on meanwhile. Raises as `sample` does, and `SessionError` where nothing is held out."""
        held_out = Samples(self._computer.data.held_out)
        count = min(len(held_out), limit)
        if not count:
            raise SessionError("The session has no held-out samples.", todo="Let the recipe's data() hold some out.")
        with self._sharing:
            model = self._shared_model()
            sums = Forward(self.recipe, model, self._record.note).measure(held_out, torch.arange(count))
        return {name: value / count for name, value in sums.items()}

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the session has finished; whether it has. Raises what ended this kernel's membership."""
        return self._wait(timeout, None)

    def follow(self, timeout: float | None = None) -> bool:
        """As `wait`, with a line of progress. An interrupt pauses this kernel's training and returns."""
        try:
            with Line() as line:
                return self._wait(timeout, line)
        except KeyboardInterrupt:
            if self.trains:
                self.pause()
                print("Training on this kernel is paused; the session lives. resume() goes on.")
            return False

    # --- what is kept of it

    def checkpoints(self) -> list[Checkpoint]:
        """Its checkpoints on the server, oldest first."""
        return checkpoints_of(self._client, self.id)

    def checkpoint(self, name: str = "") -> Checkpoint:
        """Have the version that stands kept, for owner and instructors; returns when it is written.

        Without a name it is called after its version. Raises `StoreError` if the server's disk does not take it.
        """
        return checkpoint_of(self._client, self.id, self._client.make_checkpoint(self.id, name))

    # --- the whole session, for its owner

    def invite(self, role: Role = "peer", expires: float = 0.0, capacity: int = 0, label: str = "") -> Invite:
        """A link that lets others in: `session.invite().link`.

        expires: seconds from now; capacity: so many members. Zeros mean the server's defaults.
        """
        _check_role(role)
        return self._client.invite(self.id, role, expires, capacity, label)

    def issue(
        self, role: Role = "peer", expires: float = 0.0, capacity: int = 0, label: str = "", url: str = ""
    ) -> dict[str, Any]:
        """As `invite`, with all that the server says of it: number, role, expires (seconds since 1970), link, reach …

        url: the base URL by which whoever is invited reaches the server, if it is another than the server thinks.
        """
        _check_role(role)
        return self._client.issue(self.id, role, expires, capacity, label, url)

    def invites(self) -> list[dict[str, Any]]:
        """All invites, without their secrets: number, role, label, expires, capacity, uses, revoked."""
        return self._client.invites(self.id)

    def revoke(self, number: int) -> None:
        """From now on nobody comes in by the invite of this number."""
        self._client.revoke(self.id, number)

    def stop(self) -> None:
        """End the session for everybody after the round under way."""
        self._client.act(self.id, "stop")

    def pause_all(self) -> None:
        """Nobody gets work until `resume_all`."""
        self._client.act(self.id, "pause")

    def resume_all(self) -> None:
        """Everybody gets work again."""
        self._client.act(self.id, "resume")

    def steer(self, peer: str, action: str, share: float = 0.5) -> None:
        """pause, resume, slow, mute, unmute or remove one peer, by its id or its name as it is shown.

        pause: it gets no work until you resume it. slow: at most `share` of what its speed would give it, until that is
        1. mute: its name is shown nowhere. remove: it is sent away, and what it joined with is good for nothing.
        Raises `SettingError` for an action or share that is none, `SessionError` if no peer or several have that name.
        """
        if action not in get_args(SteerAction):
            raise SettingError(f"Peers cannot be told to {action!r}.", todo=f"Say {', '.join(get_args(SteerAction))}.")
        self._client.steer(self.id, id_of(peer, self._client.peers(self.id)["members"]), action, share)

    def set(self, *, strategy: Strategy | str | None = None, **settings: Any) -> dict[str, Any]:
        """Change settings from the next round on; returns all of them. Raises `SettingError` before anything changes.

        settings: fields of `SessionSettings` but for the seed; `lr` is learning_rate, `steps` inner_steps, `batch`
        target_batch. strategy: what to follow from the next round on, or the name of one ("local", "streaming", …): as
        the session had it before, or else with `steps` and `batch`.
        """
        spec = self._client.spec(self.id)
        changes = settings_of(settings, spec.settings, spec.samples)
        if strategy is not None:
            if not isinstance(strategy, str):  # its own numbers count, not what was set for the one before
                changes = {"inner_steps": 0, "target_batch": 0, **changes}
            rule = rule_for(strategy, changes, spec, self.recipe.optimizer, self.recipe.predictions)
            if rule.work == "steps":
                changes.pop("target_batch", None)  # the inner batch, which is the rule's
            self._client.change_strategy(self.id, rule)
        return self._client.change(self.id, changes)

    # --- inside

    def _wait(self, timeout: float | None, line: Line | None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            status = self.status()
            if line is not None:
                line.show(status.line())
            if status.state == "finished":
                return True
            if status.state in OVER:
                break
            rest = None if until is None else until - time.monotonic()
            if rest is not None and rest <= 0:
                return False
            self._rest(status, _POLL_SECONDS if rest is None else min(rest, _POLL_SECONDS))
        if self._record.error is not None:
            raise self._record.error
        return False

    def _rest(self, seen: Status, seconds: float) -> None:
        if self._trainer is None:
            time.sleep(seconds)
        else:
            self._record.wait_for(lambda status: status is not seen, seconds)

    def _sample(self, prompt: str) -> tuple[str, int]:
        """The text, and the round after which it was written."""
        with self._sharing:
            model, round = self._shared_model(), max(self._record.status.version, 0)
            return self._computer.sample(model, prompt), round

    def _shared_model(self) -> torch.nn.Module:
        """A model with the shared parameters of now, which training does not change. Several threads use it, each while
        it has `_sharing`."""
        trainer = self._must_trainer()
        if self._shared is None:
            self._shared = self.recipe.build().eval()
        if not trainer.copy_to(self._shared):
            raise SessionError("The session's parameters are not here yet.", todo="Wait until this kernel trains.")
        return self._shared

    def _must_trainer(self) -> Trainer:
        if self._trainer is None:
            raise SessionError(
                "This kernel does not train in the session.",
                "It was opened with train=False.",
                "Use pause_all() and resume_all(), or join the session with an invite.",
            )
        return self._trainer

    def __repr__(self) -> str:
        try:
            return f"<Session {self.id}: {self.status().line()}>"
        except SwarmError as error:
            return f"<Session {self.id}: {error.what}>"


def _check_role(role: str) -> None:
    if role not in get_args(Role):
        raise InviteError(f"There is no role {role!r}.", todo=f"Choose one of {', '.join(get_args(Role))}.")
