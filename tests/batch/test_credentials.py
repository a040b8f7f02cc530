"""Who answers the questions of a login: references and what was typed once, each for its own question."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.batch import credentials
from p2v.batch.manifest import Entry
from p2v.errors import UsageError
from p2v.house import House, login_answers
from p2v.job import Job
from p2v.ui import UI, ProgressStyle
from tests.batch.manifests import manifest

KEY_QUESTION = "Passphrase for key /root/.ssh/id: "
LOGIN_QUESTION = "Password for root@web01: "


def house(folder: Path, answers: dict[str, str] | None = None) -> House:
    ui = UI(style=ProgressStyle.NONE, stderr=io.StringIO())
    return House(ui, folder / "home", None if answers is None else lambda prompt: answers[prompt])


def test_a_reference_answers_its_own_question_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login password that went out as a passphrase would do no harm; the other way round it would."""
    monkeypatch.setenv("LOGIN", "for-the-login")
    (tmp_path / "pass").write_text("for-the-key\nsecond line\n")
    job = Job("ssh://web01", ("raw",), tmp_path, password="env:LOGIN", passphrase=f"file:{tmp_path}/pass")
    answer = login_answers(job, house(tmp_path))
    assert answer is not None
    assert (answer(LOGIN_QUESTION), answer(KEY_QUESTION)) == ("for-the-login", "for-the-key")
    only = login_answers(replace(job, password=""), house(tmp_path))
    assert only is not None
    assert only(LOGIN_QUESTION) == ""
    other = login_answers(replace(job, passphrase=""), house(tmp_path))
    assert other is not None
    assert other(KEY_QUESTION) == ""


def test_what_was_read_is_kept_out_of_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGIN", "hunter2")
    mine = house(tmp_path)
    answer = login_answers(Job("ssh://web01", ("raw",), tmp_path, password="env:LOGIN"), mine)
    assert answer is not None
    answer(LOGIN_QUESTION)
    assert mine.keyring.redactor.clean("it was hunter2") == "it was [removed]"


PROMPTS = """\
defaults: {to: raw, password: prompt}
machines:
  - {source: "ssh://a"}
  - {source: "ssh://b"}
  - {source: "ssh://c", password: prompt, passphrase: prompt}
  - {source: "ssh://d", password: "env:HOME"}
"""


def test_each_question_is_asked_once_for_all_whom_it_serves(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return f"<{prompt}>"

    entries = manifest(tmp_path, PROMPTS).entries
    answers = credentials.collect(entries, replace(house(tmp_path), ask_password=ask))
    assert asked == [
        "Password for the machines of manifest.yaml: ",
        "Password for c: ",
        "Passphrase of the key for c: ",
    ]

    def said(entry: Entry, question: str) -> str:
        answer = answers.of(entry)
        return answer(question) if answer else "nobody"

    a, b, c, d = entries
    assert (
        said(a, LOGIN_QUESTION) == said(b, LOGIN_QUESTION) == "<Password for the machines of manifest.yaml: >"
    )
    assert (said(c, LOGIN_QUESTION), said(c, KEY_QUESTION)) == (
        "<Password for c: >",
        "<Passphrase of the key for c: >",
    )
    assert (said(a, KEY_QUESTION), said(d, LOGIN_QUESTION)) == ("", "nobody")
    assert said(a, "Passphrase of /dev/sda1 of the guest: ") == ""
    assert "<" not in repr(answers)


def test_a_vsphere_password_is_asked_for_before_anything_starts(tmp_path: Path) -> None:
    text = 'machines: [{source: "ssh://a", to: vsphere, vsphere: {server: vc.example, user: adm}}]'
    entries = manifest(tmp_path, text).entries
    mine = house(tmp_path, {"Password of adm on vc.example: ": "hunter2"})
    credentials.collect(entries, mine)
    assert entries[0].job.vsphere is not None
    assert mine.keyring.password(entries[0].job.vsphere.server, None).value == "hunter2"
    assert credentials.needs_person(entries[0])
    with pytest.raises(UsageError, match="Nobody can be asked"):
        credentials.collect(entries, house(tmp_path))
