"""Nobody's code runs in somebody else's kernel before they have seen it and said yes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..protocol.errors import RecipeError
from .source import hash_source, readable

WARNING = "It runs in this kernel, with all your rights: your files, your network. Nothing has run yet."
MIN_PREFIX = 16
"""Digits of a hash. For fewer, another text that begins alike could be found."""
_WIDTH = 78


def agree_to(source: str, title: str, agree: str | None = None, facts: Iterable[tuple[str, str]] = ()) -> str:
    """Return the hash of `source` if its reader agrees to run it, else raise `RecipeError`.

    agree: the hash that was agreed to beforehand, or at least its first 16 digits; without it the text is shown and
    the question is asked with `input()`. facts: name and value of what else the reader should know before that.
    """
    sha256 = hash_source(source)
    if agree is not None:
        _check(agree.strip().lower(), sha256)
        return sha256
    print(f"{' The recipe that you are asked to run: ' + readable(title) + ' ':=^{_WIDTH}}")
    print(readable(source.rstrip()))
    print(f"{' SHA-256 ' + sha256[:16] + '… ':=^{_WIDTH}}")
    for name, value in facts:
        print(f"{name}: {readable(value)}")
    print(WARNING)
    try:
        answer = input("Run this recipe here? [yes/no] ")
    except (EOFError, RuntimeError, NotImplementedError) as error:
        raise RecipeError(
            "Nobody could be asked whether this recipe may run.", str(error), f"Agree beforehand: agree={sha256!r}"
        ) from None
    if answer.strip().lower() not in ("y", "yes"):
        raise RecipeError("The recipe was not agreed to, and has not run.", todo="Join again if you change your mind.")
    return sha256


def _check(agree: str, sha256: str) -> None:
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX},64}}", agree):
        raise RecipeError(
            f"{agree!r} is not the hash of a recipe.",
            f"At least {MIN_PREFIX} of its hexadecimal digits are needed.",
            "Copy the hash from the invite card.",
        )
    if not sha256.startswith(agree):
        raise RecipeError(
            "The session's recipe is not the one that was agreed to; nothing has run.",
            f"Agreed: {agree}. The session's: {sha256}.",
            "Ask the instructor; join without agree= to read the recipe.",
        )
