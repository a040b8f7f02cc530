"""Which Python of a source is used, and that the one that was found runs the first script."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v.errors import ConnectionLost, TransportError
from p2v.transports import SshOptions, ssh_scripts
from p2v.transports.frames import MAGIC
from p2v.transports.ssh_config import parse_address
from p2v.transports.ssh_scripts import BOOTSTRAP, FIRST, NOISE, find_python
from p2v.transports.ssh_session import SshSession, open_session
from p2v.transports.ssh_stream import Stream
from tests.sshd import Sshd, descendants, private_sshd

REAL = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
ABSENT = None
# What a Python says that is too old, one that is broken, and one that cannot even be started.
OLD = f'#!/bin/sh\nshift 2\nexec {sys.executable} -c "import sys; sys.version_info = (3, 3); $1" "$2" "$3"\n'
BROKEN = "#!/bin/sh\necho 'Fatal Python error: init_fs_encoding' >&2\nexit 1\n"
UNUSABLE = "#!/nonexistent/interpreter\n"


@contextmanager
def first_words(folder: Path, pythons: dict[str, str | None]) -> Iterator[subprocess.Popen[bytes]]:
    """The look for a Python, with these programs in PATH."""
    for name, text in pythons.items():
        if text is not None:
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
    process = subprocess.Popen(
        ["/bin/sh", "-c", FIRST, "p2v", f"exec({BOOTSTRAP!r})"],
        env={"PATH": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[bytes], script: str) -> tuple[bytes, bytes, int]:
    """What is said, on both outputs, and the exit code, once it was sent a script."""
    said, errors = process.communicate(b"%8d" % len(script) + script.encode(), timeout=20)
    return said, errors, process.returncode


@pytest.mark.parametrize(
    "unfit", [ABSENT, OLD, BROKEN, UNUSABLE], ids=["absent", "old", "broken", "unusable"]
)
@pytest.mark.parametrize("fit", [True, False], ids=["then one that works", "then none"])
def test_the_first_python_that_works_runs_the_script(unfit: str | None, fit: bool, tmp_path: Path) -> None:
    if Path("/usr/libexec/platform-python").exists():
        pytest.skip("this system has one more")
    with first_words(tmp_path, {"python3": unfit, "python": REAL if fit else ABSENT}) as process:
        said, errors, code = answer(process, "print('begun')")
    assert (said, code) == (b"p2v uses python\nbegun\n" if fit else b"p2v uses sh\n", 0)
    assert errors == b""


def test_a_script_that_fails_is_not_tried_with_another_python(tmp_path: Path) -> None:
    with first_words(tmp_path, {"python3": REAL, "python": REAL}) as process:
        said, errors, code = answer(process, "raise ValueError('a bug of ours')")
    assert (said, code) == (b"p2v uses python3\n", 8)
    assert b"a bug of ours" in errors


def test_the_script_inherits_nothing_but_the_channel(tmp_path: Path) -> None:
    """What outlives a script, as the watchdog of a freeze does, would hold the channel open with it."""
    with first_words(tmp_path, {"python3": REAL}) as process:
        said, errors, code = answer(
            process, "import os\ntry:\n os.fstat(3)\nexcept OSError:\n print('closed')"
        )
    assert (said, errors, code) == (b"p2v uses python3\nclosed\n", b"", 0)


def test_without_a_script_it_ends(tmp_path: Path) -> None:
    with first_words(tmp_path, {"python3": REAL, "python": REAL}) as process:
        assert process.communicate(timeout=20) == (b"p2v uses python3\n", b"")
        assert process.returncode == 0


def test_no_login_shell_reads_it_otherwise() -> None:
    """csh ends a quoted word at a line break; fish makes one backslash of two, and nothing of others."""
    sent = ssh_scripts._one_line(BOOTSTRAP)
    assert "\n" not in sent
    assert "\\\\" not in sent
    assert "\\'" not in sent
    assert eval(sent.removeprefix("exec")) == BOOTSTRAP


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with private_sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@contextmanager
def session_to(server: Sshd) -> Iterator[SshSession]:
    options = SshOptions(
        identity=server.identity, known_hosts=server.known_hosts, config_file=Path("/dev/null")
    )
    with open_session(parse_address(server.url), options) as session:
        yield session


def pythons(server: Sshd) -> list[int]:
    """The processes that were started with the bootstrap and are no shells."""
    found = []
    for pid in descendants(server.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"p2v uses" in words and b"-BSE" in words.split(b"\0"):
            found.append(pid)
    return found


@pytest.mark.ssh
def test_the_python_that_was_found_runs_the_first_script(server: Sshd) -> None:
    with session_to(server) as session, find_python(session) as scripts:
        assert scripts is not None
        (waiting,) = pythons(server)
        with scripts.run("remote_reader.py") as first, scripts.run("remote_reader.py") as second:
            greeted(first)
            greeted(second)
            running = pythons(server)
            assert len(running) == 2
            assert waiting in running
        gone(server)


@pytest.mark.ssh
def test_a_python_that_nobody_needed_ends_with_the_connection(server: Sshd) -> None:
    with session_to(server) as session:
        with find_python(session) as scripts:
            assert scripts is not None
            assert pythons(server)
        gone(server)


@pytest.mark.ssh
def test_what_the_profile_says_is_passed_over(tmp_path: Path) -> None:
    talkative = "ForceCommand echo 'p2v uses nonsense, said the motd'; exec sh -c \"$SSH_ORIGINAL_COMMAND\""
    with (
        private_sshd(tmp_path, extra=[talkative]) as server,
        session_to(server) as session,
        find_python(session) as scripts,
    ):
        assert scripts is not None
        with scripts.run("remote_reader.py") as line:
            greeted(line)


@pytest.mark.ssh
@pytest.mark.parametrize("talk", ["true", "yes", "exit 3"])
def test_a_source_without_a_shell_is_cut_off(talk: str, tmp_path: Path) -> None:
    # `id -u` is answered, the look for a Python is not.
    force = f"ForceCommand case \"$SSH_ORIGINAL_COMMAND\" in 'id -u') id -u;; *) {talk};; esac"
    with private_sshd(tmp_path, extra=[force]) as server, session_to(server) as session:
        with pytest.raises(TransportError, match="no usual shell") as caught, find_python(session):
            pass
        assert not isinstance(caught.value, ConnectionLost)


def greeted(line: Stream) -> None:
    """The first words of a script have come."""
    said = b""
    while MAGIC not in said:
        piece = line.read(NOISE)
        assert piece, said
        said += piece


def gone(server: Sshd) -> None:
    deadline = time.monotonic() + 10
    while pythons(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not pythons(server)
