"""A local NBD server that is slow to come up."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from p2v.disk.nbd import open_nbd_device
from p2v.errors import TransportError

DELAY = 0.3


def test_a_server_that_does_not_listen_yet_is_waited_for(tmp_path: Path) -> None:
    """A socket that is bound is there, and refuses; this one then hangs up, which is another error."""
    pytest.importorskip("nbd")
    place = tmp_path / "nbd"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        timer = threading.Timer(DELAY, hang_up, [server])
        timer.start()
        started = time.monotonic()
        with pytest.raises(TransportError) as caught, open_nbd_device(place, 512):
            pass
        timer.join()
    assert time.monotonic() - started >= DELAY
    assert "refused" not in str(caught.value)


def hang_up(server: socket.socket) -> None:
    server.listen(1)
    server.accept()[0].close()
