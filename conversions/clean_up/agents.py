"""Agents of the old hardware, and tools of other platforms: their services start no more.

Their packages stay: what they do when they are removed would run in the appliance, which is neither machine.
A warning says the command that removes them on the virtual machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from conversions import services
from conversions.changes import Changes
from p2v.model import Removal


@dataclass(frozen=True, slots=True)
class Agent:
    """Software by its services and packages; `platform` begins the names of the targets that it is made for.

    `uninstaller` is a pattern for the path of its own program where it came without a package.
    """

    title: str
    kind: Removal
    services: tuple[str, ...]
    packages: tuple[str, ...]
    platform: str = ""
    uninstaller: str = ""


AGENTS = (
    Agent(
        "HPE management agents",
        Removal.HW_AGENTS,
        (
            *("hp-health", "hp-asrd", "hpasmd", "hp-snmp-agents", "hpsmhd", "hp-ams", "hp-OpenIPMI", "hpvca"),
            *("amsd", "smad", "smad_rev", "ahslog", "cpqFca", "cpqIde", "cpqScsi", "cpqiScsi", "mr_cpqScsi"),
        ),
        ("hp-health", "hp-snmp-agents", "hpsmh", "hp-ams", "amsd"),
    ),
    Agent(
        "Dell OpenManage and iDRAC Service Module",
        Removal.HW_AGENTS,
        (
            *("dsm_sa_datamgrd", "dsm_sa_eventmgrd", "dsm_sa_snmpd", "dsm_om_connsvc", "dsm_om_shrsvc"),
            *("dataeng", "instsvcdrv", "racsvc", "mptctl", "dcismeng"),
        ),
        ("srvadmin-all", "dcism"),
    ),
    Agent(
        "IBM and Lenovo director agents",
        Removal.HW_AGENTS,
        ("dir6agent", "twgagent", "twgstart", "ibmasm", "tier1slp", "icc"),
        ("DirectorCommonAgent", "ibmasm"),
    ),
    Agent(
        "Fujitsu ServerView agents",
        Removal.HW_AGENTS,
        ("srvmagt", "srvmagt_scs", "eecd", "eecd_mods_src", "sv_mods"),
        ("srvmagt-agents", "srvmagt-eecd", "srvmagt-mods_src"),
    ),
    Agent(
        "RAID controllers' management",
        Removal.HW_AGENTS,
        (
            *("vivaldiframeworkd", "mrmonitor", "msm_profile", "lsi_mrdsnmpd", "lsi_sassnmpd", "LsiSASH"),
            *("stor_agent", "stor_tomcat", "3dm2", "arcconf", "tw_cli"),
        ),
        ("MegaRAID_Storage_Manager",),
    ),
    Agent(
        "monitoring of sensors, disks and memory",
        Removal.HW_AGENTS,
        (
            *(
                "ipmi",
                "ipmievd",
                "openipmi",
                "bmc-watchdog",
                "ipmidetectd",
                "mcelog",
                "smartd",
                "smartmontools",
            ),
            *("lm_sensors", "lm-sensors", "fancontrol"),
        ),
        ("mcelog", "smartmontools", "ipmitool", "lm-sensors"),
    ),
    Agent(
        "VMware Tools",
        Removal.GUEST_TOOLS,
        (
            *("vmtoolsd", "vgauthd", "vgauth", "open-vm-tools", "vmware-tools", "vmware-tools-services"),
            *("vmware-tools-thinprint", "vmware-USBArbitrator", "run-vmblock-fuse", "vmblock-fuse"),
        ),
        ("open-vm-tools",),
        platform="vmware",
        uninstaller="/usr/bin/vmware-uninstall-tools.pl",
    ),
    Agent(
        "VirtualBox Guest Additions",
        Removal.GUEST_TOOLS,
        ("vboxadd", "vboxadd-service", "vboxadd-x11", "vboxservice", "virtualbox-guest-utils"),
        ("virtualbox-guest-utils", "virtualbox-guest-additions"),
        platform="virtualbox",
        uninstaller="/opt/VBoxGuestAdditions-*/uninstall.sh",
    ),
    Agent(
        "XenServer tools",
        Removal.GUEST_TOOLS,
        ("xe-linux-distribution", "xe-daemon", "xe-guest-utilities"),
        ("xe-guest-utilities",),
        platform="xen",
    ),
    Agent(
        "Hyper-V and Azure daemons",
        Removal.GUEST_TOOLS,
        (
            *(
                "hypervkvpd",
                "hypervvssd",
                "hypervfcopyd",
                "hv-kvp-daemon",
                "hv-vss-daemon",
                "hv-fcopy-daemon",
            ),
            *("hv_kvp_daemon", "hv_vss_daemon", "hv_fcopy_daemon", "waagent", "walinuxagent"),
        ),
        ("hyperv-daemons", "walinuxagent"),
        platform="hyperv",
    ),
    Agent(
        "Parallels Tools",
        Removal.GUEST_TOOLS,
        ("prltoolsd", "prltools", "prl-x11"),
        (),
        platform="parallels",
        uninstaller="/usr/lib/parallels-tools/install",
    ),
)
MANAGERS = (
    ("/usr/bin/apt-get", "apt-get purge"),
    ("/usr/bin/zypper", "zypper remove"),
    ("/usr/bin/dnf", "dnf remove"),
    ("/usr/bin/yum", "yum remove"),
    ("/sbin/apk", "apk del"),
    ("/usr/bin/pacman", "pacman -R"),
)
"""Package managers, by the program that is looked for, and how each removes packages."""


def stop_agents(changes: Changes, kind: Removal, *, platform: str) -> None:
    """Let the services of every agent of this kind start no more, except those that the target is for."""
    for agent in AGENTS:
        if agent.kind is kind and not (agent.platform and platform.startswith(agent.platform)):
            _stop(changes, agent)


def _stop(changes: Changes, agent: Agent) -> None:
    reason = f"{agent.title}: of no use in the virtual machine"
    found = [service for service in agent.services if services.disable(changes, service, reason)]
    if found:
        command = _command(changes, agent)
        advice = f"; on the virtual machine, remove them with: {command}" if command else ""
        changes.warn(f"{agent.title} start no more ({', '.join(found)}), but are still installed{advice}")


def _command(changes: Changes, agent: Agent) -> str:
    own = changes.guest.glob(agent.uninstaller) if agent.uninstaller else []
    if own:
        return own[0]
    manager = next((command for path, command in MANAGERS if changes.guest.exists(path)), "")
    return f"{manager} {' '.join(agent.packages)}" if manager and agent.packages else ""
