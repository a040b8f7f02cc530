"""Where the machine goes: datacenter, cluster or host, pool, datastore, folder and networks, by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p2v.errors import PlanRefused
from p2v.vsphere.api import printable, vim
from p2v.vsphere.choosing import Kind, choose
from p2v.vsphere.inventory import Row, below, fetch, fetch_one, path_of, shown_names
from p2v.vsphere.session import Session
from p2v.vsphere.settings import NetworkMap, Placement

HOST_PATHS = (
    "name",
    "parent",
    "datastore",
    "network",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "summary.hardware.numCpuThreads",
    "summary.hardware.memorySize",
    "summary.quickStats.overallMemoryUsage",
)
COMPUTE_PATHS = ("name", "parent", "host", "datastore", "network", "resourcePool", "environmentBrowser")
DATASTORE_PATHS = (
    "name",
    "parent",
    "summary.freeSpace",
    "summary.accessible",
    "summary.maintenanceMode",
    "info.maxFileSize",
)
UPLINKS = "SYSTEM/DVS.UPLINKPG"
"""The tag of port groups that hold a switch's own uplinks: no place for a machine (vSphere Web Services
API).
"""


@dataclass(frozen=True, slots=True)
class Link:
    """A network of the descriptor and what it becomes; `key` is that of a distributed port group."""

    source: str
    network: Row
    key: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The objects that were found, and the folder as a path that people know."""

    datacenter: Row
    compute: Row
    host: Row
    pool: Row
    datastore: Row
    folder: Row
    folder_path: str
    links: tuple[Link, ...]


def find_place(session: Session, wished: Placement, networks: Sequence[str]) -> Place:
    """Every name of a placement as an object. Raises PlanRefused, and TargetError when vSphere does not
    answer.

    `networks` are those of the machine's descriptor.
    """
    datacenter = _datacenter(session, wished)
    compute, hosts = _compute(session, wished, datacenter)
    reach = hosts[0] if wished.host else compute
    where = f"host {hosts[0].name!r}" if wished.host else f"{_kind(compute)} {compute.name!r}"
    datastore = _datastore(session, wished, reach, where, datacenter)
    links = _links(session, wished.networks, networks, reach, where)
    folder = _folder(session, wished, datacenter)
    return Place(
        datacenter=datacenter,
        compute=compute,
        host=_host(hosts, datastore, links, where),
        pool=_pool(session, wished, compute),
        datastore=datastore,
        folder=folder,
        folder_path=path_of(session, folder),
        links=links,
    )


def _datacenter(session: Session, wished: Placement) -> Row:
    paths = ("name", "parent", "vmFolder", "hostFolder")
    rows = below(session, session.content.rootFolder, vim.Datacenter, paths)
    kind = Kind("datacenter", f"on {session.server.host}", "--datacenter")
    return choose(session, kind, wished.datacenter, rows)


def _kind(compute: Row) -> str:
    return "cluster" if isinstance(compute.ref, vim.ClusterComputeResource) else "host"


def _compute(session: Session, wished: Placement, datacenter: Row) -> tuple[Row, list[Row]]:
    """The cluster or host that gives CPU and memory, and the hosts of it that may run the machine."""
    where = f"in datacenter {datacenter.name!r}"
    computes = below(session, datacenter.get("hostFolder"), vim.ComputeResource, COMPUTE_PATHS)
    clusters = [row for row in computes if _kind(row) == "cluster"]
    if wished.cluster:
        computes = [choose(session, Kind("cluster", where, "--cluster"), wished.cluster, clusters)]
    if wished.host:
        refs = [host for compute in computes for host in compute.get("host", [])]
        rows = fetch(session, refs, vim.HostSystem, HOST_PATHS)
        host = choose(session, Kind("host", where, "--host"), wished.host, rows)
        return _parent_of(host, computes), [host]
    if len(computes) != 1:
        raise _which(where, clusters, [row for row in computes if _kind(row) == "host"])
    return computes[0], fetch(session, computes[0].get("host", []), vim.HostSystem, HOST_PATHS)


def _which(where: str, clusters: Sequence[Row], hosts: Sequence[Row]) -> PlanRefused:
    if not clusters and not hosts:
        return PlanRefused(f"There is neither a cluster nor a host {where}, or this user may not see any")
    option, rows = ("--cluster", clusters) if clusters else ("--host", hosts)
    return PlanRefused(
        f"Say where {where} the machine should run. Clusters: {shown_names(clusters)}; "
        f"hosts without one: {shown_names(hosts)}",
        hint=f"Try: {option} {sorted(row.name for row in rows)[0]}",
    )


def _parent_of(host: Row, computes: Iterable[Row]) -> Row:
    """`refs` of the hosts came from these, so that one of them is it."""
    return next(row for row in computes if host.ref in row.get("host", []))


def _datastore(session: Session, wished: Placement, reach: Row, where: str, datacenter: Row) -> Row:
    rows = fetch(session, reach.get("datastore", []), vim.Datastore, DATASTORE_PATHS)
    if wished.datastore and not any(row.name == wished.datastore for row in rows):
        _explain_datastore(session, wished.datastore, where, datacenter, rows)
    kind = Kind("datastore", f"that {where} reaches", "--datastore")
    return choose(session, kind, wished.datastore, rows)


def _explain_datastore(session: Session, wanted: str, where: str, datacenter: Row, rows: list[Row]) -> None:
    """A name that exists, but not as a datastore for this place, deserves more than "there is no"."""
    for kind, what in ((vim.StoragePod, "is a datastore cluster"), (vim.Datastore, "is not reached by")):
        if any(row.name == wanted for row in below(session, datacenter.ref, kind, ["name"])):
            text = f"{wanted!r} {what}" + (f" {where}" if kind is vim.Datastore else ", not a datastore")
            raise PlanRefused(
                f"{text}; datastores there: {shown_names(rows)}", hint="Try: --datastore with one of these"
            )


def _links(
    session: Session, maps: Sequence[NetworkMap], sources: Sequence[str], reach: Row, where: str
) -> tuple[Link, ...]:
    unknown = sorted({item.source for item in maps if item.source} - set(sources))
    if unknown:
        raise PlanRefused(
            f"The machine has no network {unknown[0]!r}; it has: {', '.join(sources) or 'none'}",
            hint=f'Try: --network "{sources[0] if sources else unknown[0]}=DST"' if sources else "",
        )
    rows = _networks(session, reach)
    wanted = {item.source: item.target for item in maps}
    return tuple(_link(session, source, wanted, rows, where) for source in sources)


def _link(session: Session, source: str, wanted: dict[str, str], rows: list[Row], where: str) -> Link:
    """The mapping of this network, that of all networks, the network of the same name, or the only one."""
    target = wanted.get(source) or wanted.get("", "")
    if not target and len(rows) != 1:
        target = source
    kind = Kind("network", f"that {where} reaches", "--network", prefix=f"{source}=")
    row = choose(session, kind, target, rows)
    return Link(source, row, str(row.get("key", "")))


def _networks(session: Session, reach: Row) -> list[Row]:
    """Networks that a machine can use. Distributed port groups have a key, by which a card names them."""
    refs = reach.get("network", [])
    groups = [ref for ref in refs if isinstance(ref, vim.dvs.DistributedVirtualPortgroup)]
    plain = [ref for ref in refs if ref not in groups]
    rows = fetch(session, groups, vim.dvs.DistributedVirtualPortgroup, ["name", "parent", "key", "tag"])
    usable = [row for row in rows if UPLINKS not in [tag.key for tag in row.get("tag", [])]]
    return fetch(session, plain, vim.Network, ["name", "parent"]) + usable


def _host(hosts: Sequence[Row], datastore: Row, links: Sequence[Link], where: str) -> Row:
    """A host that is up and sees everything, the one with most free memory.

    A cluster without DRS chooses none by itself, and one with DRS moves the machine later as it likes.
    """
    able = [host for host in hosts if _is_up(host)]
    if not able:
        raise PlanRefused(f"No host of {where} can take a machine: {_states(hosts)}")
    seeing = [host for host in able if _sees(host, datastore, links)]
    if not seeing:
        wires = ", ".join(repr(link.network.name) for link in links)
        raise PlanRefused(
            f"No host of {where} that is up has the datastore {datastore.name!r} and the networks {wires}",
            hint="Try: --host with one that has, and what that one reaches",
        )
    return max(seeing, key=_free_memory)


def _is_up(host: Row) -> bool:
    state = str(host.get("runtime.connectionState", ""))
    return state == "connected" and not host.get("runtime.inMaintenanceMode", False)


def _states(hosts: Sequence[Row]) -> str:
    return ", ".join(
        f"{printable(host.name)} is "
        + (
            "in maintenance"
            if host.get("runtime.inMaintenanceMode")
            else str(host.get("runtime.connectionState"))
        )
        for host in hosts
    )


def _sees(host: Row, datastore: Row, links: Sequence[Link]) -> bool:
    networks = host.get("network", [])
    return datastore.ref in host.get("datastore", []) and all(link.network.ref in networks for link in links)


def _free_memory(host: Row) -> int:
    used = int(host.get("summary.quickStats.overallMemoryUsage", 0)) << 20
    return int(host.get("summary.hardware.memorySize", 0)) - used


def _pool(session: Session, wished: Placement, compute: Row) -> Row:
    root = fetch_one(session, compute.get("resourcePool"), ["name", "parent"])
    if not wished.resource_pool:
        return root
    found = below(session, root.ref, vim.ResourcePool, ["name", "parent"])
    rows = [root] + [row for row in found if not isinstance(row.ref, vim.VirtualApp)]
    kind = Kind("resource pool", f"in {_kind(compute)} {compute.name!r}", "--resource-pool")
    return choose(session, kind, wished.resource_pool, rows)


def _folder(session: Session, wished: Placement, datacenter: Row) -> Row:
    """`a/b` below the folder of machines, or the whole path that starts with the datacenter."""
    folder = fetch_one(session, datacenter.get("vmFolder"), ["name", "parent", "childEntity"])
    prefix = f"{path_of(session, folder)}/"
    rest = (wished.folder.strip("/") + "/") if wished.folder.strip("/") else ""
    rest = f"/{rest}".removeprefix(prefix) if f"/{rest}".startswith(prefix) else rest
    for name in [part for part in rest.split("/") if part]:
        refs = [ref for ref in folder.get("childEntity", []) if isinstance(ref, vim.Folder)]
        rows = fetch(session, refs, vim.Folder, ["name", "parent", "childEntity"])
        folder = choose(session, Kind("folder", f"in {folder.name!r}", "--folder"), name, rows)
    return folder


def children(session: Session, folder: Row) -> list[Row]:
    """Machines and folders directly in a folder."""
    fresh = fetch_one(session, folder.ref, ["name", "childEntity"])
    return fetch(session, fresh.get("childEntity", []), vim.ManagedEntity, ["name"])
