"""What a notebook calls: `host`, `join`, `train`."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

from ..link.memory import keep_buffers
from ..protocol.errors import RecipeError, SessionError, SettingError, SwarmError
from ..protocol.invites import Invite, parse_invite_to_join
from ..protocol.rules import SessionSettings
from .activity import keep_kernel
from .alone import Training
from .checkpoints import Checkpoint, open_checkpoint
from .client import Client
from .compute import Computer, prepare
from .consent import agree_to
from .data import Samples
from .founding import open_session
from .identity import Identity
from .offer import look_at
from .preflight import check_machine, try_out
from .progress import Line
from .published import fetch
from .recipe import Data, Recipe, load_recipe
from .record import OVER, Record
from .session import Session
from .steering import changed
from .trainer import Trainer

__all__ = ["Session", "current", "host", "join", "train"]

_JOIN_SECONDS = 60.0
_EXIT_SECONDS = 2.0
_sessions: dict[tuple[str, str], Session] = {}


def host(
    recipe: Recipe | str | Path,
    name: str = "",
    *,
    rounds: int | None = None,
    train: bool = True,
    server: str | None = None,
    wait: bool = False,
    start: Checkpoint | str | Path | None = None,
    preflight: bool = True,
    **settings: Any,
) -> Session:
    """Open a session on the server that started this kernel, or on `server` (its URL with ?token=…).

    recipe: one with a source text, the name of a ready one, or the path of a .py file. name: the session's. train:
    whether this kernel is a peer too. wait: show progress until the session has finished. start: the checkpoint, or its
    folder, whose parameters the session goes on from. preflight: whether the recipe is tried out first; it is refused
    if that fails. settings: as for `Session.set`, and `seed`. Raises `LinkError` without a server, `RecipeError`,
    `LayoutError` (also for a checkpoint of another model), `SettingError`, `CheckpointError`.
    """
    recipe = _recipe_of(recipe)
    client = Client.of_owner(server)
    chosen = _settings_of(recipe, rounds, settings)
    agreed = recipe.sha256
    first = open_checkpoint(start) if isinstance(start, (str, Path)) else start
    computer = _prepare(recipe, chosen.seed, preflight) if train else _prepare_to_host(recipe, chosen.seed, preflight)
    session = open_session(client, recipe, name or recipe.name, chosen, computer, first)
    if not train:
        opened = Session(session, recipe, client, computer, Record(session), None)
        _sessions[client.server, session] = opened
    else:
        invite = client.invite(session, "peer", capacity=1, label="the host's own kernel")
        opened = _enter(Invite(client.server, session, invite.secret), recipe, agreed, client, computer, "host")
        opened.show_samples()
    if wait:
        opened.follow()
    return opened


def join(
    link: str,
    name: str = "",
    *,
    agree: str | None = None,
    device: str = "",
    data: Any = None,
    preflight: bool = True,
    wait: bool = False,
) -> Session:
    """Join a session by its invite link, as a peer that others see as `name`.

    The recipe is shown first and runs after a yes, or at once if `agree` is its hash (16 digits suffice). device: as
    torch spells it; without one an accelerator if there is one. data: samples of your own to train on, instead of the
    session's: a `Data` or what its `train` may be. They stay in this kernel; the instructor sets how many may count.
    preflight: whether the recipe is tried out here first; joining is refused if that fails. wait: show progress until
    the session has finished. A second join from the same kernel returns the session that it is in. Raises
    `InviteError`, `LinkError`, `RecipeError`, `LayoutError`, `SessionError`, `SettingError`.
    """
    invite = parse_invite_to_join(link)
    session = _sessions.get((invite.server, invite.session))
    if session is not None and session.trains:
        print(f"This kernel already trains in {invite.session}: here it is again. leave() first to join anew.")
    else:
        client = Client.of_member(invite)
        offer, spec = look_at(client, invite.session)
        own = data if data is None or isinstance(data, Data) else Data(train=data)
        facts = offer.facts()
        if own:
            facts.append(("your own data", f"{len(Samples(own.train)):,} samples, which stay in this kernel"))
        agreed = agree_to(offer.source, offer.name, agree, facts)
        recipe = Recipe.from_source(offer.source)
        with Line() as line:
            shared = fetch(client, invite.session, spec.data, line.show) if spec.data else None
        computer = _prepare(recipe, spec.settings.seed, preflight, device, shared, own)
        session = _enter(invite, recipe, agreed, client, computer, name)
    if wait:
        session.follow()
    return session


def train(recipe: Recipe | str | Path, rounds: int | None = None) -> Training:
    """Train alone and here, in the foreground, with the batches and the arithmetic of a session.

    rounds: instead of the recipe's own. An interrupt ends it after the last whole round: the result's `run` goes on.
    """
    recipe = _recipe_of(recipe)
    number = recipe.rounds if rounds is None else rounds
    if number < 1:
        raise SettingError("It is not said how many rounds to train.", todo="Pass rounds=, at least 1.")
    training = Training(recipe)
    try:
        with Line() as line:
            training.run(number, line.show)
    except KeyboardInterrupt:
        print(f"Interrupted after round {training.round}; run(rounds) goes on.")
    return training


def current() -> Session:
    """The session that this kernel hosted or joined last. Raises `SessionError` if there is none."""
    for session in reversed(_sessions.values()):
        if not session.left:
            return session
    raise SessionError("This kernel is in no session.", todo="host() one, or join() one with an invite link.")


def _recipe_of(recipe: Recipe | str | Path) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe)


def _prepare(
    recipe: Recipe,
    seed: int,
    preflight: bool,
    device: str = "",
    data: Data | None = None,
    own: Data | None = None,
) -> Computer:
    """What this kernel trains with, tried out if `preflight`. Raises what stops it."""
    if preflight:
        check_machine(recipe, device)
    computer = prepare(recipe, seed, device=device, data=data, own=own)
    if preflight:
        report = try_out(computer, own)
        report.check()
        print("\n".join((report.line(), *report.warnings)))
    return computer


def _prepare_to_host(recipe: Recipe, seed: int, preflight: bool) -> Computer:
    """What a kernel brings that does not train itself: its machine need not be what the recipe needs."""
    try:
        check_machine(recipe)
    except RecipeError as error:
        print(f"The recipe is not tried out on this machine, which does not train: {error.what}")
        return prepare(recipe, seed, device="cpu")
    return _prepare(recipe, seed, preflight)


def _settings_of(recipe: Recipe, rounds: int | None, settings: dict[str, Any]) -> SessionSettings:
    number = recipe.rounds if rounds is None else rounds
    recipes = SessionSettings(seed=recipe.seed, rounds=number, evaluate_every=recipe.evaluate_every)
    return changed(recipes, settings)


def _enter(invite: Invite, recipe: Recipe, agreed: str, client: Client, computer: Computer, name: str) -> Session:
    """Become a peer; returns once the server has said welcome, or after a minute in which it has not answered."""
    keep_buffers()
    member = Client.of_member(invite)
    record = Record(invite.session)
    identity = Identity(invite.server, invite.session)
    trainer = Trainer(member.socket_url(invite.session), member.headers, computer, record, identity, agreed, name)
    session = Session(invite.session, recipe, client, computer, record, trainer)
    trainer.start()
    try:
        record.wait_for(lambda status: bool(status.peer) or status.state in OVER, _JOIN_SECONDS)
        if record.error is not None:
            raise record.error
    except BaseException:
        trainer.leave(_EXIT_SECONDS)
        raise
    _sessions.pop((invite.server, invite.session), None)
    _sessions[invite.server, invite.session] = session
    keep_kernel(record)
    return session


@atexit.register
def _leave_all() -> None:
    for session in list(_sessions.values()):
        try:
            session.leave(_EXIT_SECONDS)
        except SwarmError:
            continue
