"""The p2v side of the bench in a process of its own: what the capture room does with one disk.

`python -m tests.bench.child URL IDENTITY KNOWN_HOSTS IMAGE FOLDER` prints one JSON object. Its peak memory
is the kernel's own count of this process (VmHWM).
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from p2v.atomic import write_atomically
from p2v.disk.copy import ImageFiles, capture_disk, verify_image
from p2v.disk.used import disk_map
from p2v.model import Disk
from p2v.transports.ssh import open_ssh
from p2v.transports.ssh_config import SshOptions, parse_address


def main(url: str, identity: str, known_hosts: str, image: str, folder: str) -> None:
    disk = Disk(path=image, size=Path(image).stat().st_size)
    files = ImageFiles(Path(folder) / "disk0.raw", Path(folder) / "disk0.digest")
    started = time.monotonic()
    options = SshOptions(identity=Path(identity), known_hosts=Path(known_hosts))
    with open_ssh(parse_address(url), options) as transport, transport.open_disk(disk) as device:
        connected = time.monotonic()
        used = disk_map(device, disk)
        mapped = time.monotonic()
        captured = capture_disk(device, used.extents, files, progress=lambda _: None)
    copied = time.monotonic()
    verify_image(files.partial_image, captured.table, progress=lambda _: None, right=captured.right)
    write_atomically(files.digest, captured.table.pieces())
    report = {
        "used": used.data_size,
        "wire": captured.stats.wire_size,
        "reused": captured.stats.reused_size,
        "warnings": used.warnings,
        "peak": peak_memory(),
        "connect": connected - started,
        "map": mapped - connected,
        "copy": copied - mapped,
        "verify": time.monotonic() - copied,
        "digest": captured.table.summary,
    }
    print(json.dumps(report))


def peak_memory() -> int:
    """Bytes, the most that this process ever had in memory."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
