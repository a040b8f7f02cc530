"""The remote writer and the local side speak of the same frames, and no answer is believed unread."""

from __future__ import annotations

import ast
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from p2v.disk.device import BlockRequest
from p2v.errors import PlanRefused, TransportError, VerifyError
from p2v.model import Disk
from p2v.transports import frames, remote_devices, remote_writer, writer_frames
from p2v.transports.writer_client import WriterClient
from p2v.transports.writer_frames import Clear, PackedBlock, WriterOp, WriterStatus


def test_both_sides_have_the_same_table() -> None:
    for op in WriterOp:
        assert getattr(remote_writer, f"OP_{op.name}") == op
    for status in WriterStatus:
        assert getattr(remote_writer, f"STATUS_{status.name}") == status
    for codec in frames.Codec:
        assert getattr(remote_writer, f"CODEC_{codec.name}") == codec
    for kind in Clear:
        assert getattr(remote_writer, f"CLEAR_{kind.name}") == kind
    for name in ("MAGIC", "MAX_LENGTH", "MAX_COUNT"):
        assert getattr(remote_writer, name) == getattr(frames, name)
    for name, module in (
        ("REQUEST", frames), ("PAIR", frames), ("RESPONSE", frames),
        ("CONTENT", writer_frames), ("SPAN", writer_frames),
    ):  # fmt: skip
        assert getattr(remote_writer, name).format == getattr(module, name).format


@pytest.mark.parametrize("script", [remote_writer, remote_devices], ids=lambda script: str(script.__name__))
def test_scripts_use_the_standard_library_alone(script: object) -> None:
    tree = ast.parse(Path(str(getattr(script, "__file__", ""))).read_text(), feature_version=(3, 7))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.ImportFrom)
        assert not isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr)
        if isinstance(node, ast.Import):
            assert not [one for one in node.names if one.name.split(".")[0] == "p2v"]


class Said:
    """A line on which these bytes come back, whatever is asked."""

    def __init__(self, answers: bytes) -> None:
        self._answers = answers

    def write(self, data: bytes | memoryview) -> None:
        """Into nothing."""

    def readinto(self, view: memoryview) -> None:
        view[:] = self._answers[: len(view)]
        self._answers = self._answers[len(view) :]

    def stderr_tail(self) -> str:
        return ""


def answer(status: int, tag: int, payload: bytes = b"", digest: bytes = bytes(32), size: int = -1) -> bytes:
    length = len(payload) if size < 0 else size
    return frames.RESPONSE.pack(status, tag, 0, length, length, digest) + payload


def client(answers: bytes) -> WriterClient:
    return WriterClient(Said(answers), {"codecs": ["none", "zlib"]})


@pytest.mark.parametrize(
    "answers",
    [
        answer(77, 1),
        answer(0, 2, b"{}"),
        answer(0, 1, b"[1]"),
        answer(0, 1, b"{"),
        answer(0, 1, b'{"disk": "no"}'),
        answer(0, 1, size=frames.MAX_JSON + 1),
        answer(1, 1, b"\x1b[2Jno such file"),
    ],
    ids=["status", "tag", "list", "cut", "no number", "endless", "error"],
)
def test_nonsense_is_the_machines_fault(answers: bytes) -> None:
    with pytest.raises(TransportError) as caught:
        client(answers).open(Disk("/dev/sda", 4096))
    assert "\x1b" not in str(caught.value)


def test_a_refusal_touches_nothing_and_says_so() -> None:
    with pytest.raises(PlanRefused, match="is in use"):
        client(answer(4, 1, b"/dev/sda is in use")).open(Disk("/dev/sda", 4096))


def test_a_silent_line_lets_the_disks_go() -> None:
    """A cable that was pulled out is noticed by nobody; the next try must find the disks free."""
    script = Path(str(remote_writer.__file__)).read_text()
    assert script.count("IDLE_SECONDS = 120.0") == 1
    script = script.replace("IDLE_SECONDS = 120.0", "IDLE_SECONDS = 0.4")
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.wait(timeout=20) == 7


def written(answers: bytes) -> list[BlockRequest]:
    request = BlockRequest(0, 0, 4096, ((0, 4096),))
    block = PackedBlock(request, frames.Codec.NONE, bytes(4096), b"d" * 32)
    return list(client(answers).write(0, [block], wrote=lambda size, seconds: None))


def test_an_answer_for_another_block_is_not_taken_for_this_one() -> None:
    assert len(written(answer(0, 1, digest=b"d" * 32))) == 1
    with pytest.raises(TransportError, match="another block"):
        written(answer(0, 1, digest=b"e" * 32))
    with pytest.raises(VerifyError):
        written(answer(3, 1, b"another digest"))


def test_zlib_where_there_is_no_zstd() -> None:
    assert client(b"").packs is frames.Codec.ZLIB
    assert WriterClient(Said(b""), {"codecs": ["zstd"]}).packs is frames.Codec.ZSTD
    assert struct.calcsize(remote_writer.REQUEST.format) == frames.REQUEST.size
