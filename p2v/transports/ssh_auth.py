"""Log in to an SSH server that has proved who it is: keys, then the questions that only a person can answer.

A secret lives in a local variable between the person and paramiko; no value, message or log holds one.
"""

from __future__ import annotations

import base64
import binascii
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.pkey import UnknownKeyType

from p2v.errors import ConnectionLost, TransportError
from p2v.transports.ssh_config import Hop
from p2v.transports.ssh_wire import start_thread, within

Ask = Callable[[str], str]

TRIES = 3
AGENT_SECONDS = 10.0
AUTH_SECONDS = 30.0
PERSON_SECONDS = 300.0
PROMPT_LIMIT = 200
MAX_KEY_FILE = 1024 * 1024

UNREADABLE = (ValueError, TypeError, IndexError, paramiko.SSHException, UnsupportedAlgorithm, UnknownKeyType)
"""What paramiko and cryptography raise for a key file that they do not take, or for a wrong passphrase."""


def authenticate(transport: paramiko.Transport, hop: Hop, ask: Ask | None) -> None:
    """Log in; returns when the server says so.

    Raises TransportError: refused, with what was tried; a key file that cannot be used; the line broke.
    """
    login = Login(transport, hop, ask)
    login.start()
    steps = (login.with_keys, login.with_questions, login.with_password)
    while not transport.is_authenticated():
        # A step that got us nearer (a server may want two of them) starts the round anew.
        if not any(step() for step in steps):
            raise login.refused()


def printable(text: str, limit: int = PROMPT_LIMIT) -> str:
    """Words of a remote side for a terminal: one line, no control characters, not long."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:limit]).strip()


@dataclass(slots=True)
class Login:
    """One login in progress: what the server still takes, and what was tried."""

    transport: paramiko.Transport
    hop: Hop
    ask: Ask | None
    allowed: tuple[str, ...] = ()
    tried: list[str] = field(default_factory=list)
    offered: set[bytes] = field(default_factory=set)
    asked: int = 0

    def start(self) -> None:
        """Ask the server what it takes (a few let one in right away)."""
        self.transport.auth_timeout = AUTH_SECONDS
        self._attempt("", lambda: self.transport.auth_none(self.hop.user))

    def _attempt(self, name: str, call: Callable[[], list[str]]) -> bool:
        """True when the server accepted this, be it only as one of two steps."""
        if name:
            self.tried.append(name)
        try:
            self.allowed = tuple(call())
        except paramiko.BadAuthenticationType as error:
            self.allowed = tuple(error.allowed_types)
            return False
        except (paramiko.SSHException, OSError, EOFError) as error:
            if not self.transport.is_active():
                raise self.dropped() from error
            return False
        return True

    def with_keys(self) -> bool:
        if "publickey" not in self.allowed:
            return False
        return any(self._offer(name, key) for name, key in self._keys())

    def _offer(self, name: str, key: paramiko.PKey) -> bool:
        blob = key.asbytes()
        if blob in self.offered or "publickey" not in self.allowed:
            return False
        self.offered.add(blob)
        return self._attempt(name, lambda: self.transport.auth_publickey(self.hop.user, key))

    def _keys(self) -> Iterator[tuple[str, paramiko.PKey]]:
        """The keys worth offering, in order. Lazy: nobody is asked for a passphrase before it is needed."""
        if self.hop.identity is not None:
            yield from self._file(self.hop.identity, required=True)
        for key in self._agent_keys():
            yield "agent", key
        for path in self.hop.identities:
            yield from self._file(path, required=False)

    def _agent_keys(self) -> Sequence[paramiko.AgentKey]:
        keys = agent_keys()
        if not self.hop.only_identities:
            return keys
        named = (self.hop.identity, *self.hop.identities)
        wanted = {public_blob(path) for path in named if path is not None}
        return [key for key in keys if key.asbytes() in wanted]

    def _file(self, path: Path, *, required: bool) -> Iterator[tuple[str, paramiko.PKey]]:
        """The key in a file, or none: a key file that nobody named on the command line may be missing."""
        if public_blob(path) in self.offered:
            return
        try:
            content = read_key_file(path)
            key = self._load(path) if not is_encrypted(content) else self._unlock(path, required=required)
        except (OSError, *UNREADABLE) as error:
            if required:
                raise unusable(path, error) from error
            return
        if key is not None:
            yield f"key {path}", key

    def _load(self, path: Path, passphrase: bytes | None = None) -> paramiko.PKey:
        # By position: the second parameter changed its name in paramiko 5; bytes suit every version.
        key: paramiko.PKey = paramiko.PKey.from_path(path, passphrase)  # type: ignore[arg-type]
        return key

    def _unlock(self, path: Path, *, required: bool) -> paramiko.PKey | None:
        """An encrypted key, by up to three passphrases. Raises TransportError for a required one."""
        for _ in range(TRIES if self.ask is not None else 0):
            assert self.ask is not None
            passphrase = self.ask(f"Passphrase for key {path}: ")
            if not passphrase:
                break
            try:
                return self._load(path, passphrase.encode())
            except UNREADABLE:
                continue
        if required:
            raise TransportError(
                f"The key {path} is encrypted and was not unlocked", hint=f"Try: ssh-add {path}"
            )
        self.tried.append(f"key {path} (encrypted, not unlocked)")
        return None

    def with_questions(self) -> bool:
        """keyboard-interactive: the server asks what it wants, a password or a code."""
        while "keyboard-interactive" in self.allowed and self.ask is not None and self.asked < TRIES:
            before = self.asked
            if self._attempt("keyboard-interactive", self._answer_questions):
                return True
            if self.asked == before:  # refused without a question
                return False
        return False

    def _answer_questions(self) -> list[str]:
        assert self.ask is not None
        self.transport.auth_timeout = PERSON_SECONDS
        bridge = QuestionBridge(self.ask, self.hop)
        try:
            return bridge.run(lambda: self.transport.auth_interactive(self.hop.user, bridge.handler))
        finally:
            self.asked += bridge.answered
            self.transport.auth_timeout = AUTH_SECONDS

    def with_password(self) -> bool:
        while "password" in self.allowed and self.ask is not None and self.asked < TRIES:
            password = self.ask(f"Password for {self.hop.login}: ")
            self.asked += 1
            if not password:
                return False
            if self._attempt("password", lambda given=password: self._send_password(given)):  # type: ignore[misc]
                return True
        return False

    def _send_password(self, password: str) -> list[str]:
        return list(self.transport.auth_password(self.hop.user, password, fallback=False))

    def refused(self) -> TransportError:
        tried = ", ".join(dict.fromkeys(self.tried)) or "nothing that the server takes"
        takes = printable(", ".join(self.allowed)) or "nothing"
        return TransportError(
            f"{self.hop.place} refused to let {self.hop.login} in. Tried: {tried}. It takes: {takes}",
            hint=f"Try: --identity FILE, or on this machine: ssh-copy-id -p {self.hop.port} {self.hop.login}",
        )

    def dropped(self) -> ConnectionLost:
        tried = ", ".join(dict.fromkeys(self.tried)) or "nothing yet"
        return ConnectionLost(
            f"{self.hop.place} closed the connection during the login of {self.hop.user}. Tried: {tried}",
            hint="Too many keys? Try: --identity FILE, with IdentitiesOnly yes in ~/.ssh/config",
        )


class QuestionBridge:
    """Carries a server's questions from paramiko's thread to the caller's, the only one Ctrl-C can leave."""

    def __init__(self, ask: Ask, hop: Hop) -> None:
        self._ask = ask
        self._hop = hop
        self._questions: queue.Queue[tuple[str, Future[str]]] = queue.Queue()
        self.answered = 0

    def handler(self, _title: str, _instructions: str, prompts: Sequence[tuple[str, bool]]) -> list[str]:
        return [self._question(prompt) for prompt, _echo in prompts]

    def _question(self, prompt: str) -> str:
        answer: Future[str] = Future()
        self._questions.put((prompt, answer))
        return answer.result(timeout=PERSON_SECONDS)

    def run(self, call: Callable[[], list[str]]) -> list[str]:
        outcome = start_thread(call)
        while not outcome.done():
            try:
                prompt, answer = self._questions.get(timeout=0.05)
            except queue.Empty:
                continue
            self._answer(prompt, answer)
        return outcome.result()

    def _answer(self, prompt: str, answer: Future[str]) -> None:
        self.answered = 1  # one round of questions is one try
        try:
            answer.set_result(self._ask(f"{self._hop.login}: {printable(prompt)} "))
        except BaseException as error:
            answer.set_exception(paramiko.SSHException("nobody answered"))
            raise error


def agent_keys() -> Sequence[paramiko.AgentKey]:
    """The keys of the user's agent; none when there is no agent or it does not answer."""
    try:
        return within(AGENT_SECONDS, lambda: paramiko.Agent().get_keys())
    except (paramiko.SSHException, OSError, TimeoutError, ValueError):
        return ()


def read_key_file(path: Path) -> bytes:
    with path.expanduser().open("rb") as file:
        return file.read(MAX_KEY_FILE)


def is_encrypted(content: bytes) -> bool:
    """Of a private key: PEM says it in its header, OpenSSH's own format in its first field (PROTOCOL.key)."""
    if b"BEGIN OPENSSH PRIVATE KEY" not in content:
        return b"ENCRYPTED" in content
    body = b"".join(line for line in content.splitlines() if line and not line.startswith(b"-----"))
    return not base64.b64decode(body).startswith(b"openssh-key-v1\0\0\0\0\x04none")


def public_blob(path: Path) -> bytes | None:
    """The public half beside a key file, where there is one."""
    try:
        words = read_key_file(path.with_name(path.name + ".pub")).split()
        return base64.b64decode(words[1], validate=True)
    except (OSError, IndexError, binascii.Error):
        return None


def unusable(path: Path, error: BaseException) -> TransportError:
    reason = (
        error.strerror if isinstance(error, OSError) and error.strerror else "not a private key in use here"
    )
    return TransportError(f"Cannot use the key {path}: {reason}", hint=f"Check: ssh-keygen -y -f {path}")
