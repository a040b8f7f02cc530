"""Logging in where a person must answer, against a server that takes passwords and codes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v.errors import TransportError
from p2v.transports.ssh_auth import is_encrypted, printable
from p2v.transports.ssh_config import SshAddress, SshOptions
from p2v.transports.ssh_session import SshSession, open_session
from tests.sshd import make_key
from tests.transports.fake_ssh import SECRET, Answer, FakeServer, fake_server, known_hosts_for

ROOT = {"id -u": Answer(0, b"0\n")}


class Person:
    """Answers prompts from a list, and remembers them."""

    def __init__(self, *answers: str) -> None:
        self.prompts: list[str] = []
        self._answers = list(answers)

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self._answers.pop(0)


@contextmanager
def session(
    tmp_path: Path, server: FakeServer, ask: Callable[[str], str] | None, identity: Path | None = None
) -> Iterator[SshSession]:
    """A session with the fake server, as user `admin`."""
    with fake_server(server):
        options = SshOptions(
            identity=identity,
            known_hosts=known_hosts_for(server, tmp_path / "known_hosts"),
            config_file=Path(os.devnull),
            ask_password=ask,
        )
        with open_session(SshAddress("127.0.0.1", server.port, "admin"), options) as opened:
            yield opened


def test_a_password_opens(tmp_path: Path) -> None:
    person = Person(SECRET)
    with session(tmp_path, FakeServer(answers=ROOT), person) as opened:
        assert opened.user_is_root
    assert person.prompts == ["Password for admin@127.0.0.1: "]


def test_a_second_password_may_be_right(tmp_path: Path) -> None:
    person = Person("wrong", SECRET)
    with session(tmp_path, FakeServer(answers=ROOT), person):
        pass
    assert len(person.prompts) == 2


def test_three_wrong_passwords_end_it_and_none_is_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server = FakeServer()
    with pytest.raises(TransportError) as caught, session(tmp_path, server, Person(*["hunter2"] * 9)):
        pass
    assert server.attempts == ["password"] * 3
    assert "admin@127.0.0.1" in caught.value.message
    assert "Tried: password." in caught.value.message
    assert caught.value.hint
    output = capfd.readouterr()
    seen = [str(caught.value), repr(caught.value.__context__), caplog.text, output.out, output.err]
    assert not any("hunter2" in text for text in seen)


def test_nobody_to_ask_is_said_at_once(tmp_path: Path) -> None:
    server = FakeServer()
    with pytest.raises(TransportError, match="It takes: password"), session(tmp_path, server, None):
        pass
    assert server.attempts == []


def test_an_empty_password_gives_up(tmp_path: Path) -> None:
    server = FakeServer()
    with pytest.raises(TransportError), session(tmp_path, server, Person("")):
        pass
    assert server.attempts == []


def test_questions_of_the_server_are_asked_and_answered_in_order(tmp_path: Path) -> None:
    server = FakeServer(
        methods="keyboard-interactive",
        prompts=("Password:", "Code\x1b[2J from\nyour phone:"),
        replies=(SECRET, "123456"),
        answers=ROOT,
    )
    person = Person(SECRET, "123456")
    with session(tmp_path, server, person) as opened:
        assert opened.user_is_root
    assert person.prompts == ["admin@127.0.0.1: Password: ", "admin@127.0.0.1: Code [2J from your phone: "]


def test_wrong_answers_are_asked_for_three_times(tmp_path: Path) -> None:
    server = FakeServer(methods="keyboard-interactive")
    with (
        pytest.raises(TransportError, match="Tried: keyboard-interactive"),
        session(tmp_path, server, Person(*["wrong"] * 9)),
    ):
        pass
    assert server.attempts == ["keyboard-interactive"] * 3


def test_a_server_may_want_two_steps(tmp_path: Path) -> None:
    server = FakeServer(second_step=True, prompts=("Code:",), replies=("99",), answers=ROOT)
    with session(tmp_path, server, Person(SECRET, "99")):
        pass
    assert server.attempts == ["password", "keyboard-interactive"]


def test_ctrl_c_at_a_question_comes_out(tmp_path: Path) -> None:
    def interrupted(_prompt: str) -> str:
        raise KeyboardInterrupt

    server = FakeServer(methods="keyboard-interactive")
    with pytest.raises(KeyboardInterrupt), session(tmp_path, server, interrupted):
        pass


def test_a_missing_identity_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    server = FakeServer(methods="publickey,password")
    with (
        pytest.raises(TransportError, match=f"{missing}: No such file"),
        session(tmp_path, server, None, identity=missing),
    ):
        pass


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_bytes(os.urandom(3000))
    server = FakeServer(methods="publickey,password")
    with (
        pytest.raises(TransportError, match=f"Cannot use the key {path}"),
        session(tmp_path, server, None, identity=path),
    ):
        pass


@pytest.mark.parametrize(
    ("sudo", "expected"), [(Answer(0), "sudo -n "), (Answer(0, b"lecture\n", b"noise\n"), "sudo -n ")]
)
def test_another_user_says_sudo(tmp_path: Path, sudo: Answer, expected: str) -> None:
    server = FakeServer(answers={"id -u": Answer(0, b"Welcome!\n1000\n"), "sudo -n true": sudo})
    with session(tmp_path, server, Person(SECRET)) as opened:
        assert not opened.user_is_root
        assert opened.privilege_prefix == expected
        assert opened.privilege_prefix == expected
    assert server.commands == ["id -u", "sudo -n true"], "the answers are not kept"


def test_root_needs_no_sudo(tmp_path: Path) -> None:
    server = FakeServer(answers=ROOT)
    with session(tmp_path, server, Person(SECRET)) as opened:
        assert opened.privilege_prefix == ""
    assert server.commands == ["id -u"]


def test_sudo_that_asks_for_a_password_is_explained(tmp_path: Path) -> None:
    sudo = Answer(1, b"", b"sudo: a password is required\n")
    server = FakeServer(answers={"id -u": Answer(0, b"1000\n"), "sudo -n true": sudo})
    with (
        session(tmp_path, server, Person(SECRET)) as opened,
        pytest.raises(TransportError, match="sudo: a password is required") as caught,
    ):
        _ = opened.privilege_prefix
    assert "admin ALL=(root) NOPASSWD: ALL" in caught.value.hint
    assert f"ssh://root@127.0.0.1:{server.port}" in caught.value.hint


@pytest.mark.parametrize(
    "answer", [Answer(9009, b"", b"'id' is not recognized"), Answer(0), Answer(0, b"root")]
)
def test_a_source_without_id_is_explained(tmp_path: Path, answer: Answer) -> None:
    server = FakeServer(answers={"id -u": answer})
    with (
        session(tmp_path, server, Person(SECRET)) as opened,
        pytest.raises(TransportError, match="does not tell its user number"),
    ):
        _ = opened.user_is_root


def test_options_never_show_a_secret() -> None:
    class Leaky:
        def __repr__(self) -> str:
            return SECRET

        def __call__(self, prompt: str) -> str:
            return SECRET

    assert SECRET not in repr(SshOptions(ask_password=Leaky()))


def test_remote_words_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b]0;x\x07b\r\nc" + "d" * 500, 11) == "a ]0;x b  c"


@pytest.mark.tools
@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_encrypted_keys_are_told_from_plain_ones(tmp_path: Path, kind: str) -> None:
    assert not is_encrypted(make_key(tmp_path / "plain", kind=kind).read_bytes())
    assert is_encrypted(make_key(tmp_path / "locked", kind=kind, passphrase="open sesame").read_bytes())
