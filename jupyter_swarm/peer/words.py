"""The words of what somebody has typed as one line."""

from __future__ import annotations

import shlex


def words_of(text: str) -> list[str]:
    """What stands between spaces, or in quotes. Links have a # and Windows' paths have backslashes: both are letters.
    Raises `ValueError` for a quote that is left open."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = lexer.escape = ""
    return list(lexer)
