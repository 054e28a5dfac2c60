"""What the notebook shows, as HTML: text inherits its colour, so it can be read on light and on dark pages alike.

Whatever came from somebody else (names, recipes, reasons) is escaped here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, String

from ..peer.checkpoints import Checkpoint
from ..peer.record import Status

_LINE = "var(--jp-border-color2, rgba(128, 128, 128, .5))"
_BOX = f"border:1px solid {_LINE};border-radius:4px;padding:.6em .9em;box-sizing:border-box"
_CODE = (
    "margin:.3em 0;font-family:var(--jp-code-font-family, monospace);font-size:.95em;line-height:1.45;"
    "background:transparent;color:inherit"
)
_EDITOR = {
    Comment: "var(--jp-mirror-editor-comment-color, inherit);font-style:italic",
    Keyword: "var(--jp-mirror-editor-keyword-color, inherit);font-weight:600",
    Name.Function: "var(--jp-mirror-editor-def-color, inherit)",
    Number: "var(--jp-mirror-editor-number-color, inherit)",
    String: "var(--jp-mirror-editor-string-color, inherit)",
}


def code(source: str) -> str:
    """Python, in the colours of the notebook's editor, in a box that scrolls (with the keyboard, too)."""
    pieces = []
    for kind, text in PythonLexer(stripnl=False).get_tokens(source):
        colour = next((style for token, style in _EDITOR.items() if kind in token), "")
        pieces.append(f'<span style="color:{colour}">{escape(text)}</span>' if colour else escape(text))
    style = f"{_CODE};{_BOX};max-height:24em;overflow:auto;white-space:pre;width:0;min-width:100%"
    return f'<pre tabindex="0" role="region" aria-label="the recipe" style="{style}">{"".join(pieces)}</pre>'


def lines(text: str) -> str:
    """Plain text, such as an error's, with its line breaks."""
    return f'<div style="white-space:pre-wrap;line-height:1.45">{escape(text)}</div>'


def heading(text: str, aside: str = "") -> str:
    """A line that can be read from the back of the room."""
    quiet = f' <span style="opacity:.75">{escape(aside)}</span>' if aside else ""
    return f'<div style="font-size:1.25em;line-height:1.4;margin:.2em 0"><b>{escape(text)}</b>{quiet}</div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Name and value, one pair a line."""
    rows = "".join(
        f'<tr style="background:transparent"><td style="opacity:.75;padding:.1em 1em .1em 0;text-align:left;'
        f'vertical-align:top">{escape(name)}</td><td style="text-align:left;overflow-wrap:anywhere">{escape(value)}'
        "</td></tr>"
        for name, value in pairs
    )
    return f'<table style="border-collapse:collapse;line-height:1.45;margin:.3em 0">{rows}</table>'


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; the first column is text, the others are numbers or short words."""

    def cell(tag: str, text: str, number: int) -> str:
        side = "left" if number == 0 or number == len(head) - 1 else "right"
        style = f"text-align:{side};padding:.2em .9em .2em 0;border-bottom:1px solid {_LINE};white-space:nowrap"
        return f'<{tag} style="{style}">{escape(text)}</{tag}>'

    titles = "".join(cell("th", text, number) for number, text in enumerate(head))
    body = "".join(
        '<tr style="background:transparent">' + "".join(cell("td", text, n) for n, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;line-height:1.4">'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def status(now: Status) -> str:
    """What is going on, in large; and, when nothing moves, why."""
    first, _, rest = now.reason.partition("\n")
    numbers = now.line().removesuffix(f"{now.state}: {first}" if first else now.state).split("  ")
    notes = "".join(f"<div>{escape(note)}</div>" for note in now.notes[-2:])
    return (
        heading(" · ".join(filter(None, numbers)))
        + f'<div style="font-size:1.1em;line-height:1.45"><b>{escape(now.state)}</b>'
        + (f": {escape(first)}" if first else "")
        + (f'<div style="white-space:pre-wrap">{escape(rest)}</div>' if rest else "")
        + (f'<div style="opacity:.75">{notes}</div>' if notes else "")
        + "</div>"
    )


def peers(found: Iterable[Mapping[str, Any]]) -> str:
    """The connected peers, as the server's status lists them."""
    rows = [
        (
            str(peer["name"] or peer["id"]),
            str(peer["device"]),
            f"{peer['speed']:.3g}",
            f"{100 * peer['share']:.0f} %",
            f"{(peer['bytes_sent'] + peer['bytes_received']) / 1e6:.1f}",
            ": ".join(filter(None, (str(peer["state"]), str(peer["reason"])))),
        )
        for peer in found
    ]
    if not rows:
        return lines("Nobody is connected.")
    return table(("peer", "device", "samples/s", "share", "MB", "state"), rows)


def checkpoints(found: Iterable[Checkpoint]) -> str:
    """What can be gone back to, the newest first."""
    rows = [
        (one.name, str(one.version), ", ".join(f"{name} {value:.4g}" for name, value in sorted(one.metrics.items())))
        for one in reversed(list(found))
    ]
    return table(("checkpoint", "round", "metrics"), rows) if rows else ""


def invite(name: str, link: str, sha256: str, colab: str, qr: str) -> str:
    """The invite card: link, lines to copy, Colab's cell; `qr` is an SVG of ours, or ''."""
    run = f"%load_ext jupyter_swarm\n%swarm join {link}"
    terminal = f"jupyter swarm peer '{link}'"
    pre = f"{_CODE};{_BOX};white-space:pre-wrap;overflow-wrap:anywhere;user-select:all"
    return (
        '<div style="display:flex;gap:1.5em;flex-wrap:wrap;align-items:flex-start;line-height:1.45">'
        '<div style="flex:1 1 24em;min-width:0">'
        + heading(f"Session {name} is open.")
        + f'Others join it in a notebook with<pre tabindex="0" style="{pre}">{escape(run)}</pre>'
        + f'or in a terminal:<pre tabindex="0" style="{pre}">{escape(terminal)}</pre>'
        + f'<details><summary style="cursor:pointer">A cell for Colab</summary><pre tabindex="0" style="{pre}">'
        + f"{escape(colab)}</pre></details>"
        + f'<div style="opacity:.75">The link is a secret: whoever has it can join. Everybody sees the recipe first; '
        f"SHA-256 {escape(sha256[:16])}…</div></div>"
        + (
            f'<div style="background:#fff;padding:.5em;border-radius:4px" title="{escape(link)}">{qr}</div>'
            if qr
            else ""
        )
        + "</div>"
    )
