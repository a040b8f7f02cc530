"""Passwords of a batch: references looked at, questions asked, once and before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from p2v.batch.manifest import Entry
from p2v.errors import UsageError
from p2v.house import KEY_PROMPT, House
from p2v.vsphere.credentials import Ask, PasswordKind, parse_password, read_password

LUKS_PROMPT = "Passphrase of"
"""How the question for the key of an encrypted disk begins (p2v.guest_unlock): nobody can be asked for it."""


class Answers:
    """What a person typed, by the question of the manifest."""

    def __init__(self, typed: Mapping[str, str]) -> None:
        self._typed = dict(typed)

    def __repr__(self) -> str:
        return f"Answers({len(self._typed)})"

    def of(self, entry: Entry) -> Ask | None:
        """Who answers for a job, of which nobody can be asked while it runs."""
        if not entry.password_prompt and not entry.passphrase_prompt:
            return None

        def answer(prompt: str) -> str:
            if prompt.startswith(LUKS_PROMPT):
                return ""
            asked = entry.passphrase_prompt if prompt.startswith(KEY_PROMPT) else entry.password_prompt
            return self._typed.get(asked, "")

        return answer


def collect(entries: Iterable[Entry], house: House) -> Answers:
    """Look whether all references hold something, and ask what must be asked. Raises UsageError."""
    chosen = list(entries)
    check_references(chosen)
    prompts = dict.fromkeys(
        prompt for entry in chosen for prompt in (entry.password_prompt, entry.passphrase_prompt) if prompt
    )
    answers = Answers({prompt: _asked(prompt, house.ask_password) for prompt in prompts})
    for entry in chosen:
        if entry.job.vsphere is not None and entry.job.targets:
            house.keyring.password(entry.job.vsphere.server, house.ask_password)
    return answers


def check_references(entries: Iterable[Entry]) -> None:
    """Raises UsageError for the first variable or file that holds no password."""
    references = {word for entry in entries for word in (entry.job.password, entry.job.passphrase) if word}
    for word in sorted(references):
        source = parse_password(word)
        if source.kind is not PasswordKind.PROMPT:
            read_password(source, "the machines that name it", None)


def needs_person(entry: Entry) -> bool:
    """Whether something of a job must be typed, so that no other machine can work on it."""
    server = entry.job.vsphere.server.password if entry.job.vsphere else None
    return bool(entry.password_prompt or entry.passphrase_prompt) or (
        server is not None and server.kind is PasswordKind.PROMPT
    )


def _asked(prompt: str, ask: Callable[[str], str] | None) -> str:
    if ask is None:
        raise UsageError(
            f"Nobody can be asked: {prompt.strip().removesuffix(':')}",
            hint="Start it on a terminal, or use env:NAME or file:PATH",
        )
    return ask(prompt)
