"""The HTML page: whole or absent, needs nothing from anywhere, and believes no text of a source."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from p2v.batch import board, page, summary
from p2v.batch.outcome import Facts, Outcome, Shown, State, clipped
from p2v.batch.runner import Course
from p2v.batch.summary import Summary
from p2v.errors import TargetError
from p2v.ui import UI, ProgressStyle, Table

EVIL = "<script>alert(1)</script>\x1b[31m\"'><img src=//evil/x onerror=alert(1)>"
PICTURE = page.PNG + b"rest of it"


class Reader(HTMLParser):
    """Tags with their attributes, and all the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def made(tmp_path: Path, *outcomes: Outcome) -> Summary:
    course = Course(outcomes, datetime(2026, 11, 23, tzinfo=UTC), 62.0)
    return Summary(Path("rack.yaml"), tmp_path, course, tmp_path / "batch-rack.html")


def outcome(tmp_path: Path, *, state: State = State.DONE, screen: bytes = PICTURE) -> Outcome:
    picture = tmp_path / "screen.png"
    picture.write_bytes(screen)
    facts = Facts(
        hostname=EVIL, system=EVIL, data_size=1 << 30, wire_size=1 << 29, seconds=10.0, units=1, license=EVIL,
        shown=(Shown("libvirt", "booted", 51.0, picture),), warnings=(EVIL,),
    )  # fmt: skip
    return Outcome(EVIL, EVIL, state, 61.0, facts, error=EVIL, hint=EVIL)


def read(tmp_path: Path, whole: Summary) -> Reader:
    path = tmp_path / "batch-rack.html"
    page.write_page(whole, path)
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return reader


def test_no_text_of_a_source_becomes_markup(tmp_path: Path) -> None:
    reader = read(tmp_path, made(tmp_path, outcome(tmp_path), outcome(tmp_path, state=State.FAILED)))
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "iframe", "link", "object", "a", "base", "form"}
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert reader.text.count("<script>alert(1)</script>") >= 10
    assert "\x1b" not in reader.text


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    reader = read(tmp_path, made(tmp_path, outcome(tmp_path)))
    policy = next(
        attributes["content"]
        for tag, attributes in reader.tags
        if "http-equiv" in attributes and tag == "meta"
    )
    assert policy.startswith("default-src 'none'")
    sources = [attributes["src"] for _, attributes in reader.tags if "src" in attributes]
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources] == [
        PICTURE
    ]
    assert "url(" not in page.STYLE
    assert "@import" not in page.STYLE


def test_what_is_no_picture_is_left_out(tmp_path: Path) -> None:
    for content in (b"<svg onload=alert(1)>", b"", page.PNG + bytes(page.PICTURE_LIMIT)):
        reader = read(tmp_path, made(tmp_path, outcome(tmp_path, screen=content)))
        assert not any(tag == "img" for tag, _ in reader.tags)


def test_the_old_page_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "batch-rack.html"
    path.write_text("old")

    def full(_one: Outcome) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "row", full)
    with pytest.raises(TargetError, match="No space left"):
        page.write_page(made(tmp_path, outcome(tmp_path)), path)
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.glob("*.tmp")] == []


def test_durations_bytes_rates_warnings_and_proofs_are_there(tmp_path: Path) -> None:
    reader = read(tmp_path, made(tmp_path, outcome(tmp_path)))
    for words in (
        "1 min 01 s",
        "1.0 GiB",
        "512.0 MiB",
        "102.4 MiB/s",
        "libvirt booted in 51 s",
        "1 license unit",
    ):
        assert words in reader.text, words


def test_texts_of_a_source_are_bounded() -> None:
    found = clipped("x" * 1000 for _ in range(100))
    assert len(found) == 21
    assert found[-1] == "and 80 more"
    assert max(map(len, found)) == 400


def test_the_text_says_what_is_wrong_and_what_to_type(tmp_path: Path) -> None:
    bad = Outcome(
        "web01", "ssh://h", State.FAILED, 3.0, error="no route", hint="p2v resume /runs/web01", exit_code=4
    )
    text = summary.text(made(tmp_path, bad))
    assert "0 of 1 machines done in 1 min 02 s, 1 failed" in text
    assert "web01  failed: no route" in text
    assert "p2v resume /runs/web01" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_has_a_line_for_each_job_and_one_for_all() -> None:
    stderr = Terminal()
    ui = UI(style=ProgressStyle.BAR, stderr=stderr)
    table = Table(ui, 2, 5, "machines")
    table.show(0, "web01  Copying /dev/sda")
    table.show(1, "web02  Converting")
    table.advance()
    table.close()
    drawn = stderr.getvalue()
    assert "web01  Copying /dev/sda" in drawn
    assert "web02  Converting" in drawn
    assert "1 of 5 machines |" in drawn


class Torn(io.StringIO):
    """Lets another thread in between any two writes."""

    def write(self, text: str) -> int:
        time.sleep(0.001)
        return super().write(text)


def test_lines_of_several_jobs_do_not_run_into_each_other() -> None:
    stderr = Torn()
    shared = board.Board(UI(style=ProgressStyle.JSON, stderr=stderr), 4, 4)

    def talk(name: str) -> None:
        for number in range(20):
            shared.warn(name, f"{number}")

    threads = [threading.Thread(target=talk, args=(f"m{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    events = [json.loads(line) for line in stderr.getvalue().splitlines()]
    assert len(events) == 80


def test_a_job_on_a_terminal_is_drawn_in_its_own_line() -> None:
    stderr = Terminal()
    drawn = board.Board(UI(style=ProgressStyle.BAR, stderr=stderr), 2, 1)
    drawn.started("web01")
    ui = board.JobUI(drawn, "web01", lambda: False)
    with ui.phase("Copying /dev/sda", 100) as phase:
        phase.advance(43)
    drawn.ended(Outcome("web01", "ssh://h", State.DONE, 3.0))
    drawn.close()
    assert "web01" in stderr.getvalue()
    assert " 43 %, 43 B at " in stderr.getvalue()


def test_a_cancelled_job_ends_at_its_next_block() -> None:
    silent = board.Board(UI(style=ProgressStyle.NONE), 1, 1)
    told = [False]
    ui = board.JobUI(silent, "web01", lambda: told[0])
    with ui.phase("Copying", 100) as phase:
        phase.advance(1)
        told[0] = True
        phase.advance(-1)  # taking back what did not count must not hide the error that it is done for
        with pytest.raises(board.Cancelled):
            phase.advance(1)
