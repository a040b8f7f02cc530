"""What the tests of SSH sessions share: options for a private server, endless transfers, time limits."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from p2v.errors import TransportError
from p2v.model import MiB
from p2v.transports.ssh_session import SshAddress, SshOptions, Stream, open_session
from tests.sshd import Sshd

NO_CONFIG = Path(os.devnull)


def options(sshd: Sshd) -> SshOptions:
    return SshOptions(identity=sshd.identity, known_hosts=sshd.known_hosts, config_file=NO_CONFIG)


def address(sshd: Sshd) -> SshAddress:
    return SshAddress("127.0.0.1", sshd.port, sshd.user)


def read_on(stream: Stream) -> NoReturn:
    buffer = bytearray(MiB)
    while True:
        stream.readinto(memoryview(buffer))


def write_on(stream: Stream) -> NoReturn:
    while True:
        stream.write(bytes(MiB))


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """What stands inside must not take longer: the difference between an error and a hang."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def refusal(address: SshAddress, options: SshOptions) -> TransportError:
    with pytest.raises(TransportError) as caught, open_session(address, options):
        pass
    assert caught.value.hint
    return caught.value
