"""Passwords that were read, each once for a process, and known to every log from then on."""

from __future__ import annotations

from p2v.log import Redactor
from p2v.vsphere.credentials import Ask, Secret, read_password
from p2v.vsphere.settings import Server


class Keyring:
    """`redactor` takes them out of whatever is written to a log."""

    def __init__(self) -> None:
        self.redactor = Redactor()
        self._known: dict[Server, Secret] = {}

    def password(self, server: Server, ask: Ask | None) -> Secret:
        """That of the user on a server; `ask` is None where nobody can be asked. Raises UsageError."""
        if server not in self._known:
            secret = read_password(server.password, f"{server.user} on {server.host}", ask)
            self.redactor.add(secret.value)
            self._known[server] = secret
        return self._known[server]
