"""What the notebook shows, as HTML: text inherits its colour, so it can be read on light and on dark pages alike.

Whatever came from somebody else (names, recipes, reasons) is escaped here and nowhere else.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, String

from ..peer.checkpoints import Checkpoint
from ..peer.comparing import Comparison
from ..peer.progress import bytes_text
from ..peer.record import Status, in_words

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


def quiet(text: str) -> str:
    """A remark that need not be read."""
    return f'<div style="opacity:.7;font-size:.9em;line-height:1.45">{escape(text)}</div>'


def said(text: str) -> str:
    """What a panel answers: the same, and a screen reader reads it out."""
    return f'<div role="status" aria-live="polite">{lines(text)}</div>'


def heading(text: str, aside: str = "") -> str:
    """A line that can be read from the back of the room."""
    quiet = f' <span style="opacity:.75">{escape(aside)}</span>' if aside else ""
    return f'<div style="font-size:1.25em;line-height:1.4;margin:.2em 0"><b>{escape(text)}</b>{quiet}</div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Name and value, one pair a line."""
    rows = "".join(
        f'<tr style="background:transparent"><td style="opacity:.75;padding:.1em 1em .1em 0;text-align:left;'
        f'vertical-align:top;white-space:nowrap">{escape(name)}</td>'
        f'<td style="text-align:left;overflow-wrap:anywhere">{escape(value)}</td></tr>'
        for name, value in pairs
    )
    return f'<table style="border-collapse:collapse;line-height:1.45;margin:.3em 0">{rows}</table>'


def table(
    head: tuple[str, ...], rows: Iterable[tuple[str, ...]], label: str, text_last: bool = True, scrolls: bool = True
) -> str:
    """A table; the first column is text, the last is unless told otherwise, the others are numbers or short words.

    scrolls: whether a long one is in a box, which the keyboard scrolls, too. One that changes all the time must not be:
    it would begin at its top again and again, and lose the keyboard's focus.
    """

    def cell(tag: str, text: str, number: int) -> str:
        last = text_last and number == len(head) - 1
        style = f"padding:.2em .9em .2em 0;border-bottom:1px solid {_LINE};vertical-align:top;"
        style += f"text-align:{'left' if last or not number else 'right'};"
        style += "white-space:normal;min-width:16em" if last else "white-space:nowrap"
        scope = ' scope="col"' if tag == "th" else ""
        return f'<{tag}{scope} style="{style}">{escape(text)}</{tag}>'

    titles = "".join(cell("th", text, number) for number, text in enumerate(head))
    body = "".join(
        '<tr style="background:transparent">' + "".join(cell("td", text, n) for n, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    box = 'tabindex="0" style="overflow:auto;max-height:20em"' if scrolls else ""
    return (
        f'<div role="region" aria-label="{escape(label)}" {box}>'
        '<table style="border-collapse:collapse;line-height:1.4">'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def status(now: Status) -> str:
    """What is going on, in large; and, when nothing moves, why."""
    doing, _, rest = now.doing.partition("\n")
    own = f"this kernel computes on {now.device}" if now.device else ""
    if own and now.samples_here and now.samples_done:
        own += f", {100 * now.samples_here / max(now.samples_done, now.samples_here):.0f} % of all samples so far"
    numbers = now.line().removesuffix(doing).split("  ")
    notes = "".join(f"<div>{escape(note)}</div>" for note in now.notes[-2:])
    return (
        heading(" · ".join(filter(None, numbers)))
        + f'<div style="font-size:1.1em;line-height:1.45"><b>{escape(now.state)}</b>'
        + escape(doing.removeprefix(now.state))
        + (f'<div style="white-space:pre-wrap">{escape(rest)}</div>' if rest else "")
        + "</div>"
        + (f'<div style="opacity:.75;line-height:1.45">{escape(own)}</div>' if own else "")
        + (f'<div style="opacity:.75;line-height:1.45">{notes}</div>' if notes else "")
    )


def by_name(found: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Peers in an order that stays while they work: by name, numbers in it as numbers."""

    def key(peer: Mapping[str, Any]) -> list[tuple[int, str]]:
        words = re.findall(r"[0-9]+|[^0-9]+", str(peer["name"] or peer["id"]).casefold())
        return [(int(word), "") if word.isdecimal() else (-1, word) for word in words]

    return sorted(found, key=key)


def peers(found: Iterable[Mapping[str, Any]], scrolls: bool = True) -> str:
    """The connected peers, as the server's status lists them."""
    rows = [
        (
            str(peer["name"] or peer["id"]),
            str(peer["device"]),
            f"{peer['speed']:,.3g}" if peer["speed"] < 1000 else f"{peer['speed']:,.0f}",
            f"{100 * peer['share']:.0f} %",
            _link(peer),
            _measured(1000 * float(peer.get("round_trip") or 0.0), "ms"),
            _measured(float(peer.get("step_seconds") or 0.0), "s"),
            _measured(float(peer.get("free_memory") or 0.0) / 1e9, "GB"),
            f"{(peer['bytes_sent'] + peer['bytes_received']) / 1e6:,.1f}",
            ", ".join([in_words(str(peer["state"]), str(peer["reason"])), *_steered(peer)]),
        )
        for peer in found
    ]
    if not rows:
        return lines("Nobody is connected.")
    link = ("Mbit/s ↑ / ↓", "round trip", "step", "free")
    head = ("peer", "device", "samples/s", "share", *link, "MB moved", "state and why")
    return table(head, rows, "who is connected", scrolls=scrolls)


def peer_line(peer: Mapping[str, Any]) -> str:
    """One peer, for terminals."""
    doing = f"{peer['name'] or peer['id']}: {peer['state']} {peer['reason']}".rstrip()
    if not (peer.get("up") or peer.get("down")):
        return doing
    return f"{doing}; ↑ / ↓ {_link(peer)} Mbit/s, {_measured(1000 * float(peer.get('round_trip') or 0.0), 'ms')}"


def _link(peer: Mapping[str, Any]) -> str:
    """Up and down in Mbit/s, as the server has measured them."""
    return " / ".join(_measured(8e-6 * float(peer.get(way) or 0.0)) for way in ("up", "down"))


def _measured(value: float, unit: str = "") -> str:
    """A measurement with two digits that count, or a dash where there is none."""
    digits = f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"
    return f"{digits} {unit}".rstrip() if value else "–"


def _steered(peer: Mapping[str, Any]) -> list[str]:
    """What an instructor has done to a peer, as far as the server tells."""
    slowed = float(peer.get("slowed") or 1.0)
    by = peer.get("paused_by")
    return [
        *([f"paused by {by}"] if by and str(by) not in str(peer["reason"]) else []),
        *([f"slowed to {100 * slowed:.0f} %"] if slowed < 1.0 else []),
        *(["muted"] if peer.get("muted") else []),
    ]


def checkpoints(found: Iterable[Checkpoint]) -> str:
    """What can be gone back to, the newest first."""
    rows = [
        (
            one.name,
            str(one.version),
            bytes_text(one.manifest.bytes),
            time.strftime("%H:%M", time.localtime(one.manifest.created)) if one.manifest.created else "",
            ", ".join(f"{name} {value:.4g}" for name, value in sorted(one.metrics.items())),
        )
        for one in reversed(list(found))
    ]
    return table(("checkpoint", "round", "size", "saved", "metrics"), rows, "checkpoints") if rows else ""


def comparison(found: Comparison) -> str:
    """Two checkpoints side by side: what was measured of them, then how far apart their tensors are."""
    measured = [
        (name, *("-" if value is None else f"{value:,.6g}" for value in pair)) for name, pair in found.metrics.items()
    ]
    apart = [(name, f"{value:.3g}") for name, value in [("all tensors", found.total), *found.tensors.items()]]
    return table(("", *found.names), measured, "measured", text_last=False) + table(
        ("tensor", "‖a - b‖ / ‖a‖"), apart, "how far apart the tensors are", text_last=False
    )


def sample(prompt: str, text: str) -> str:
    """A text that the model made, its prompt in bold."""
    begins = f"<b>{escape(prompt)}</b>" if prompt and text.startswith(prompt) else ""
    rest = escape(text[len(prompt) :] if begins else text)
    style = f"{_CODE};{_BOX};max-height:20em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;font-size:1.05em"
    return f'<pre tabindex="0" role="region" aria-label="sample" style="{style}">{begins}{rest}</pre>'


def kept(png: bytes, line: str) -> str:
    """What was to be seen at a moment, folded away: `line` says when it was, and how far things were."""
    style = "max-width:100%;background:#fff;border-radius:4px"
    picture = f'<img style="{style}" alt="the curve" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    summary = f'<summary style="cursor:pointer;opacity:.7;font-size:.9em">{escape(line)}</summary>'
    return f"<details>{summary}{picture if png else ''}</details>"


def on_white(svg: str, label: str) -> str:
    """A picture of ours that must be seen on white."""
    style = "background:#fff;padding:.4em;border-radius:4px;display:inline-block;line-height:0"
    return f'<div role="img" aria-label="{escape(label)}" style="{style}">{svg}</div>'


_COPY = """
const b=this, f=b.parentNode.querySelector('input,textarea'), t=b.dataset.text || (b.dataset.text = b.textContent);
const say = s => { b.textContent = s; setTimeout(() => { b.textContent = t; }, 4000); };
const old = () => { f.focus(); f.select(); return document.execCommand('copy'); };
const select = () => say(old() ? 'Copied' : 'Selected: press Ctrl+C');
if (navigator.clipboard) navigator.clipboard.writeText(f.value).then(() => say('Copied'), select); else select();
"""
"""A clipboard may be forbidden, or be missing as on pages without TLS: then the older way, which may fail as well, and
says so. Where no script may run the field is there to be copied from by hand."""


def copyable(label: str, text: str, rows: int = 1) -> str:
    """A field to copy from: it selects all of itself when it is focused, and has a button that copies if it can."""
    style = (
        "flex:1 1 18em;min-width:0;box-sizing:border-box;font-family:var(--jp-code-font-family, monospace);"
        f"font-size:.95em;line-height:1.45;padding:.35em .5em;border:1px solid {_LINE};border-radius:4px;"
        "background:transparent;color:inherit;resize:vertical"
    )
    common = f'readonly spellcheck="false" aria-label="{escape(label)}" onfocus="this.select()" style="{style}"'
    field = f'<input {common} value="{escape(text)}">'
    if rows > 1:
        field = f'<textarea {common} rows="{rows}" wrap="off">{escape(text)}</textarea>'
    press = (
        f'<button type="button" class="jupyter-button widget-button" aria-live="polite" title="Copy {escape(label)}" '
        f'style="width:auto;flex:none;padding:0 .9em" onclick="{escape(_COPY)}">Copy</button>'
    )
    return (
        f'<div style="line-height:1.5"><span style="opacity:.75">{escape(label)}</span>'
        f'<div style="display:flex;gap:.4em;align-items:flex-start">{field}{press}</div></div>'
    )


CURVE = "swarm-curve"
_DARK = ", ".join(
    f"{page} .{CURVE}"
    for page in (
        "body[data-jp-theme-light='false']", "html[theme='dark']", "body.vscode-dark", "body.vscode-high-contrast",
    )
)  # fmt: skip
FOLLOW_THEME = f"<style>{_DARK} {{ filter: invert(.92) hue-rotate(180deg) brightness(1.15); }}</style>"
"""Turns a light curve dark on the dark pages of JupyterLab and Notebook, Colab and VS Code: hues stay, lightness is
turned round. A kernel does not know the theme, and it may change while a curve is shown."""
