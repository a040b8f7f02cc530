"""Looking into the inventory: names and properties of many objects in one request."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from p2v.errors import TargetError
from p2v.vsphere.api import asking, printable, vmodl
from p2v.vsphere.session import Session

PAGE = 500
OBJECT_LIMIT = 200_000
"""More of one kind than the documented maximum of a vCenter several times over."""
DEPTH_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Row:
    """An object of the inventory. Objects compare by reference."""

    ref: Any
    values: Mapping[str, Any] = field(compare=False)

    @property
    def raw_name(self) -> str:
        return str(self.values.get("name", ""))

    @property
    def name(self) -> str:
        """As people see it: vSphere writes `%2f`, `%5c` and `%25` for `/`, a backslash and `%`."""
        return unquote(self.raw_name)

    def get(self, path: str, default: Any = None) -> Any:
        """A property, or `default` where it is unset or the user may not see it."""
        value = self.values.get(path)
        return default if value is None else value


def quoted(name: str) -> str:
    """A name as vSphere keeps it, see `Row.name`."""
    return name.replace("%", "%25").replace("/", "%2f").replace("\\", "%5c")


def same(one: Any, other: Any) -> bool:
    """Whether two references mean one object of a server."""
    return one is not None and other is not None and one._moId == other._moId


def fetch(session: Session, refs: Sequence[Any], kind: Any, paths: Sequence[str]) -> list[Row]:
    """Properties of objects that are known; `kind` is their common class. Raises TargetError, Unreachable."""
    if not refs:
        return []
    objects = [vmodl.query.PropertyCollector.ObjectSpec(obj=ref) for ref in refs]
    return _retrieve(session, objects, kind, paths)


def fetch_one(session: Session, ref: Any, paths: Sequence[str]) -> Row:
    """Properties of one object. Raises TargetError, Unreachable."""
    rows = fetch(session, [ref], type(ref), paths)
    if not rows:
        raise TargetError(f"vSphere shows nothing of {ref._moId} to this user")
    return rows[0]


def below(session: Session, container: Any, kind: Any, paths: Sequence[str]) -> list[Row]:
    """Everything of a kind (subclasses too) at any depth below a folder, datacenter, pool or host."""
    with asking("list its inventory"):
        view = session.content.viewManager.CreateContainerView(container, [kind], True)
    traversal = vmodl.query.PropertyCollector.TraversalSpec(path="view", skip=False, type=type(view))
    start = vmodl.query.PropertyCollector.ObjectSpec(obj=view, skip=True, selectSet=[traversal])
    try:
        return _retrieve(session, [start], kind, paths)
    finally:
        with contextlib.suppress(TargetError), asking("close a view"):
            view.DestroyView()


def _retrieve(session: Session, objects: list[Any], kind: Any, paths: Sequence[str]) -> list[Row]:
    collector = session.content.propertyCollector
    spec = vmodl.query.PropertyCollector.FilterSpec(
        objectSet=objects,
        propSet=[vmodl.query.PropertyCollector.PropertySpec(type=kind, all=False, pathSet=list(paths))],
    )
    options = vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=PAGE)
    rows: list[Row] = []
    with asking("show its inventory"):
        page = collector.RetrievePropertiesEx([spec], options)
        while page is not None:
            rows += [_row(item) for item in page.objects]
            if len(rows) > OBJECT_LIMIT:
                raise TargetError(f"{session.server.host} shows more objects than a vCenter can have")
            page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
    return rows


def _row(item: Any) -> Row:
    return Row(item.obj, {prop.name: prop.val for prop in item.propSet})


def path_of(session: Session, row: Row) -> str:
    """`/DC0/host/Cluster`: where an object stands, without the root folder. Raises TargetError."""
    names = [row.name]
    parent = row.get("parent")
    for _ in range(DEPTH_LIMIT):
        if parent is None:
            break
        above = fetch_one(session, parent, ["name", "parent"])
        parent = above.get("parent")
        if parent is not None:  # the root folder has a name that nobody sees
            names.append(above.name)
    return "/" + "/".join(reversed(names))


def find_machine(session: Session, instance_uuid: str) -> Any:
    """The machine with that instance UUID, None where there is none. Raises TargetError."""
    if not instance_uuid:
        return None
    with asking("look for the machine"):
        return session.content.searchIndex.FindByUuid(None, instance_uuid, True, True)


def shown_names(rows: Sequence[Row], limit: int = 20) -> str:
    """`a, b, c`, for a message."""
    names = sorted({printable(row.name) for row in rows})
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"
