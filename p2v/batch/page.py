"""The summary as one HTML page that needs nothing else: no script, no font, no picture from anywhere.

Everything in it comes from sources that nobody trusts, so every text is escaped, and the page itself forbids
its browser to fetch or run anything. It is written piece by piece: ten thousand pictures need no memory.
"""

from __future__ import annotations

import base64
import html
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from p2v.atomic import sync_directory
from p2v.batch.board import describe
from p2v.batch.outcome import Outcome, Shown, State
from p2v.batch.summary import Summary, shown_words
from p2v.errors import TargetError
from p2v.ui import human_size, human_time

PICTURE_LIMIT = 2 * 1024 * 1024
PNG = b"\x89PNG\r\n\x1a\n"

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em;
  color: #1c1c1c; background: #fff }
h1 { font-size: 1.4em; margin-bottom: 0 } .sums { color: #555; margin-top: .2em }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .45em .7em; border-bottom: 1px solid #ddd }
th { font-weight: 600; border-bottom: 2px solid #888 } td.n { text-align: right; white-space: nowrap }
.good { color: #116329 } .bad { color: #b00020; font-weight: 600 } .soft { color: #666 }
ul { margin: .3em 0 0; padding-left: 1.2em } li { color: #7a4d00 } pre { white-space: pre-wrap; margin: .3em
0 } img { max-width: 16em; border: 1px solid #888; display: block; margin-top: .4em } @media (prefers-color-
scheme: dark) { body { color: #ddd; background: #161616 } th, td { border-color: #444 }
  .good { color: #6fdd8b } .bad { color: #ff8a80 } .sums, .soft { color: #aaa } li { color: #e0b060 } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
COLUMNS = ("Machine", "State", "Time", "Read", "On the wire", "Rate", "Virtual machine", "License")


def write_page(summary: Summary, path: Path) -> None:
    """Write the page; its name is there once it is whole. Raises TargetError where that cannot be done."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with unfinished.open("x", encoding="utf-8") as file:
            for piece in pieces(summary):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise TargetError(
            f"Cannot write {path}: {error.strerror}", hint=f"Try: df -h {path.parent}"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def pieces(summary: Summary) -> Iterator[str]:
    title = f"p2v batch {summary.manifest.name}"
    yield "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>\n"
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    yield '<meta name=viewport content="width=device-width">\n'
    yield f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>\n"
    yield f"<h1>{_text(summary.headline())}</h1>\n"
    when = summary.course.started.isoformat(sep=" ", timespec="seconds")
    yield f"<p class=sums>{_text(title)}, started {_text(when)}. {_text(summary.totals())}</p>\n"
    yield f"<table><thead><tr>{''.join(f'<th>{column}' for column in COLUMNS)}</tr></thead><tbody>\n"
    for outcome in summary.outcomes:
        yield from row(outcome)
    yield "</tbody></table></body></html>\n"


def row(one: Outcome) -> Iterator[str]:
    facts = one.facts
    kind = "good" if one.state.good else "bad"
    yield f"<tr><td><b>{_text(one.name)}</b><br><span class=soft>{_text(one.source)}"
    yield f"<br>{_text(facts.hostname)} {_text(facts.system)}</span>"
    yield f"<td><span class={kind}>{_text(str(one.state))}</span>{_remarks(one)}"
    yield f"<td class=n>{_text(human_time(one.seconds))}"
    yield f"<td class=n>{_size(facts.data_size)}<td class=n>{_size(facts.wire_size)}"
    yield f"<td class=n>{_size(facts.rate)}{'/s' if facts.rate else ''}<td>"
    for shown in facts.shown:
        yield f"<div>{_text(shown_words(shown))}{_picture(one, shown)}</div>"
    yield f"<td>{_text(facts.license)}</tr>\n"


def _remarks(one: Outcome) -> str:
    said = f"<pre>{_text(describe(one))}</pre>" if one.state in (State.FAILED, State.NOT_STARTED) else ""
    hint = f"<pre class=soft>{_text(one.hint)}</pre>" if one.hint else ""
    tries = f"<div class=soft>{one.tries} tries</div>" if one.tries > 1 else ""
    warnings = "".join(f"<li>{_text(warning)}" for warning in one.warnings)
    return f"{said}{hint}{tries}{f'<ul>{warnings}</ul>' if warnings else ''}"


def _picture(one: Outcome, shown: Shown) -> str:
    """The screen as it was photographed, in the page itself; nothing where there is no such picture."""
    content = _read(shown.screen) if shown.screen else b""
    if not content.startswith(PNG):
        return ""
    data = base64.b64encode(content).decode()
    return f'<img alt="{_text(f"screen of {one.name}")}" src="data:image/png;base64,{data}">'


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(PICTURE_LIMIT + 1)
    except OSError:
        return b""
    return content if len(content) <= PICTURE_LIMIT else b""


def _size(size: float) -> str:
    return _text(human_size(size)) if size else ""


def _text(text: str) -> str:
    return html.escape(
        "".join(char if char.isprintable() or char == "\n" else "?" for char in text), quote=True
    )
