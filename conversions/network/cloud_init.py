"""cloud-init makes the network anew when it thinks that the machine is a new one, and a virtual machine is.

Its own files tell how to keep the network as it is: `network: {config: disabled}` below cloud.cfg.d.
"""

from __future__ import annotations

import re

from conversions.changes import Changes
from conversions.network.texts import files, read

SETTINGS = ("/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/*.cfg")
SWITCHED_OFF = ("/etc/cloud/cloud-init.disabled",)
OWN = "/etc/cloud/cloud.cfg.d/99-p2v-network.cfg"
TEXT = "# The network stays as it was on the physical machine, kept by p2v.\nnetwork: {config: disabled}\n"
WRITTEN = (
    "/etc/netplan/50-cloud-init.yaml",
    "/etc/network/interfaces.d/50-cloud-init*",
    "/etc/systemd/network/10-cloud-init-*.network",
    "/etc/NetworkManager/system-connections/cloud-init-*",
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/sysconfig/network/ifcfg-*",
    "/etc/network/interfaces",
)
MARK = re.compile(
    r"cloud-init|instance-id|generated from information provided by the datasource", re.IGNORECASE
)
DISABLED = re.compile(r"^\s*network:\s*(?:\{\s*)?(?:\n\s+)?config:\s*[\"']?disabled", re.MULTILINE)


def keep_network(changes: Changes) -> None:
    """Keep what cloud-init wrote when the machine was installed."""
    if not changes.guest.exists(SETTINGS[0]) or any(map(changes.guest.exists, SWITCHED_OFF)):
        return
    if any(DISABLED.search(read(changes, path)) for path in files(changes, *SETTINGS)):
        return
    if any(MARK.search(path) or MARK.search(read(changes, path)) for path in files(changes, *WRITTEN)):
        changes.write_text(
            OWN, TEXT, "cloud-init would replace the network configuration on a machine it does not know"
        )
