"""What the shared model makes of a prompt, for all who watch a session to read."""

from __future__ import annotations

import re

import msgspec

from .errors import SettingError

SAMPLE_CHARACTERS = 2000
"""Of the text, and of the prompt."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Sample(msgspec.Struct, frozen=True):
    """`text` is what the model of version `round` has made of `prompt`, with which it may begin."""

    prompt: str
    text: str
    round: int
    unix_time: float


def readable_text(text: str) -> str:
    """`text` with nothing in it but lines that can be shown: a model writes whatever it has seen."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def shortened(text: str) -> str:
    """`text` as far as it may be sent."""
    return text if len(text) <= SAMPLE_CHARACTERS else text[: SAMPLE_CHARACTERS - 1] + "…"


def check_sample(prompt: str, text: str, round: int) -> None:
    """Raises `SettingError` for what is too long or of no version."""
    if max(len(prompt), len(text)) > SAMPLE_CHARACTERS:
        raise SettingError(
            f"A sample has at most {SAMPLE_CHARACTERS} characters, and so has its prompt.", todo="Send less of it."
        )
    if not 0 <= round < 1 << 53:
        raise SettingError(f"There is no round {round}.", todo="Say after which round the text was written.")
