"""Our scripts on a source that has Python: which Python runs them, and how they get there.

A script travels over the channel and is run from memory. The Python that was looked for waits for the first
of them: to start it once more would take as long as to find it.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources

from p2v.errors import TransportError
from p2v.transports.ssh_session import SshSession
from p2v.transports.ssh_stream import STALL_SECONDS, Stream

PROBE_SECONDS = 60.0
NOISE = 64 * 1024
"""So many bytes may the profile of a login say before the answer."""

BOOTSTRAP = """
import os, sys
try:
    import hashlib, json, mmap, zlib
except Exception:
    sys.exit(9)
if sys.version_info < (3, 4):
    sys.exit(9)
if sys.argv[2:]:
    os.dup2(3, 2)
    os.close(3)
def take(size):
    data = b''
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data
os.write(1, ('p2v uses ' + sys.argv[1] + chr(10)).encode())
script = take(int(take(8)))
try:
    exec(compile(script, 'p2v', 'exec'), {'__name__': '__main__'})
except Exception:
    import traceback
    traceback.print_exc()
    sys.exit(8)
"""
"""Says its own name, reads exactly one script from the channel and nothing behind it, and becomes the script.

Ends with 9 where this Python cannot do it. A second argument says that the real standard error is number 3.
"""

FIRST = (
    "for name in python3 /usr/libexec/platform-python python; do "
    '"$name" -BSE -c "$1" "$name" quiet 3>&2 2>/dev/null; code=$?; '
    'case "$code" in 1|9|126|127) ;; *) exit "$code";; esac; done; echo p2v uses sh'
)
"""The bootstrap in the first of these that is a whole Python of version 3.4 or newer; the second is that of
RHEL 8. What is none ends with 1, 9, 126 or 127, what had begun never does.
"""

IN_FRONT = {"remote_reader.py": ("remote_line.py", "remote_packing.py")}
"""A script over there can import nothing of ours."""


class Scripts:
    """Runs them; `python` is the name of the Python over there, and each script has a channel of its own."""

    def __init__(self, session: SshSession, python: str, waiting: Stream, until: ExitStack) -> None:
        self._session = session
        self._python = python
        self._waiting = [(waiting, until)]

    @contextmanager
    def run(self, name: str, *, stall_timeout: float = STALL_SECONDS) -> Iterator[Stream]:
        """One of our scripts, running; its first words are still to be taken. Raises TransportError."""
        script = script_text(name)
        with ExitStack() as stack:
            line = self._take_waiting(stack, stall_timeout) or self._start(stack, stall_timeout)
            line.write(b"%8d" % len(script) + script)
            yield line

    def _take_waiting(self, stack: ExitStack, stall_timeout: float) -> Stream | None:
        try:
            line, until = self._waiting.pop()  # at once: disks are read side by side
        except IndexError:
            return None
        stack.enter_context(until)
        line.stall_after(stall_timeout)
        return line

    def _start(self, stack: ExitStack, stall_timeout: float) -> Stream:
        # -B: as root, Python would write the bytecode of what it imports beside it.
        command = self._session.privilege_prefix + shlex.join(
            [self._python, "-BSE", "-c", _one_line(BOOTSTRAP), self._python]
        )
        return stack.enter_context(self._session.open_stream(command, stall_timeout=stall_timeout))

    def close(self) -> None:
        """End a Python that waited for nothing."""
        for _, until in self._waiting:
            until.close()


@contextmanager
def find_python(session: SshSession) -> Iterator[Scripts | None]:
    """None where the source has none that we can use. Raises TransportError where no shell answers."""
    with ExitStack() as stack:
        words = ["sh", "-c", FIRST, "p2v", _one_line(BOOTSTRAP)]
        command = session.privilege_prefix + shlex.join(words)
        line = stack.enter_context(session.open_stream(command, stall_timeout=PROBE_SECONDS))
        python = _named(line, session.place)
        if python is None:
            stack.close()
            yield None
            return
        scripts = Scripts(session, python, line, stack.pop_all())
        stack.callback(scripts.close)
        yield scripts


def _named(line: Stream, place: str) -> str | None:
    said, deadline = b"", time.monotonic() + PROBE_SECONDS
    while len(said) < NOISE and time.monotonic() < deadline:
        piece = line.read(NOISE)
        said += piece
        found = re.search(rb"^p2v uses ([a-z0-9/-]+)\r?\n", said, re.MULTILINE)
        if found:
            name = found[1].decode("ascii")
            return None if name == "sh" else name
        if not piece:
            break
    raise TransportError(f"{place} runs no usual shell", hint="Try: ssh HOST sh -c true")


def _one_line(code: str) -> str:
    """Of login shells, csh takes no line break within quotes, and fish takes two backslashes for one."""
    return f"exec({code!r})"


def script_text(name: str) -> bytes:
    """What is sent of a script: itself, behind what it needs of others."""
    folder = resources.files("p2v.transports")
    return b"".join(folder.joinpath(part).read_bytes() for part in (*IN_FRONT.get(name, ()), name))
