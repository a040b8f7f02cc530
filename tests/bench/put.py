"""The p2v side of the bench of restores, in a process of its own: what the writing room does with one disk.

`python -m tests.bench.put URL IDENTITY KNOWN_HOSTS IMAGE TARGET` prints one JSON object. Login, map, copy,
flush and reading back are all in it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from p2v.disk.device import open_file_device
from p2v.disk.used import disk_map
from p2v.model import Disk
from p2v.restore.writing import DiskJob, DiskWriter
from p2v.transports.ssh import SshTransport, open_ssh
from p2v.transports.ssh_config import SshOptions, parse_address
from tests.bench.child import peak_memory


def main(url: str, identity: str, known_hosts: str, image: str, target: str) -> None:
    options = SshOptions(identity=Path(identity), known_hosts=Path(known_hosts))
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="p2v-put-") as folder,
        open_file_device(Path(image)) as device,
        open_ssh(parse_address(url), options) as transport,
    ):
        disk = Disk(target, device.size)
        used = disk_map(device, disk)
        assert isinstance(transport, SshTransport)
        with transport.open_writer() as client:
            job = DiskJob(device, used.extents, disk, Path(folder) / "disk0.written")
            writer = DiskWriter(job, client, client.open(disk))
            ready = time.monotonic()
            writer.write()
            written = time.monotonic()
            done = writer.verify()
    report = {
        "used": done.data_size,
        "wire": done.wire_size,
        "verified": done.verified_size,
        "peak": peak_memory(),
        "connect": ready - started,
        "write": written - ready,
        "verify": time.monotonic() - written,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
