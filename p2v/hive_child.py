"""Serves one registry hive through hivex, in a process of its own: the script of `p2v.hives`.

hivex is C code and a hive is what a guest gave us: damage that ends this process ends one conversion with a
clear error, not p2v. Requests come over the socket whose descriptor is the first argument, each a length and
a JSON list `[operation, argument…]`; answers are `{"ok": …}` or `{"error": text}`. The second argument
limits the bytes of memory.
"""

from __future__ import annotations

import base64
import importlib
import json
import resource
import socket
import struct
import sys
from typing import Any

DEEPEST = 512
"""Levels of keys in a registry (Microsoft, "Registry element size limits")."""
PLAIN_LIMIT = 16344
"""Bytes of a value that stands in one cell. Longer ones are spread over several, which hivex only reads."""

Wire = tuple[str, int, str]  # a value: its name, its type, its data in base64
NULL = 0xFFFFFFFF


class Damaged(Exception):
    """The hive contradicts itself."""


class Server:
    """Operations on one open hive; a key that is not there reads as empty."""

    def __init__(self) -> None:
        self._hive: Any = None

    def open(self, path: str, write: bool) -> None:
        self._hive = importlib.import_module("hivex").Hivex(path, write=write)

    def keys(self, path: str) -> list[str]:
        node = self._find(path)
        return [] if node is None else [name for name, _ in self._children(node)]

    def has(self, path: str) -> bool:
        return self._find(path) is not None

    def values(self, path: str) -> list[Wire]:
        node = self._find(path)
        return [] if node is None else [self._value(handle) for handle in self._hive.node_values(node)]

    def set(self, path: str, name: str, kind: int, data: str) -> None:
        node = self._make(path)
        self._need_plain(node)
        value = {"key": name, "t": kind, "value": base64.b64decode(data)}
        self._hive.node_set_value(node, value)

    def remove_value(self, path: str, name: str) -> None:
        node = self._find(path)
        if node is not None:
            self._need_plain(node)
            kept = [value for value in self.values(path) if value[0].lower() != name.lower()]
            values = [{"key": key, "t": kind, "value": base64.b64decode(data)} for key, kind, data in kept]
            self._hive.node_set_values(node, values)

    def remove_key(self, path: str) -> None:
        node = self._find(path)
        if node is not None and path:
            self._hive.node_delete_child(node)

    def commit(self, path: str) -> None:
        self._hive.commit(path)

    def _find(self, path: str) -> int | None:
        node: int | None = self._hive.root()
        for name in _parts(path):
            node = self._child(node, name)
            if node is None:
                return None
        return node

    def _make(self, path: str) -> int:
        node: int = self._hive.root()
        for name in _parts(path):
            child = self._child(node, name)
            node = self._add(node, name) if child is None else child
        return node

    def _add(self, node: int, name: str) -> int:
        # hivex lists keys by a hash that is Windows' own for plain names only.
        if not name.isascii():
            raise Damaged(f"a key that is called {name!r} cannot be made")
        added: int = self._hive.node_add_child(node, name)
        return added

    def _child(self, node: Any, name: str) -> int | None:
        child: int | None = self._hive.node_get_child(node, name)
        return child if child is None else self._own(node, child)

    def _children(self, node: int) -> list[tuple[str, int]]:
        found = [(name, self._own(node, child)) for name, child in self._named(node)]
        if len({child for _, child in found}) != len(found):
            raise Damaged("a key is listed twice")
        return found

    def _named(self, node: int) -> list[tuple[str, int]]:
        named = []
        for child in self._hive.node_children(node):
            try:
                named.append((self._hive.node_name(child), child))
            except (RuntimeError, UnicodeDecodeError):
                continue  # no text: it has no path by which anybody could ask for it
        return named

    def _own(self, node: int, child: int) -> int:
        """A key knows the one that it is below: without this, keys in a circle would have no end."""
        if child == self._hive.root() or self._hive.node_parent(child) != node:
            raise Damaged("a key is listed where it does not belong")
        return child

    def _value(self, handle: int) -> Wire:
        kind, data = self._hive.value_value(handle)
        return (self._hive.value_key(handle), kind & NULL, base64.b64encode(data).decode())

    def _need_plain(self, node: int) -> None:
        # hivex writes all values of a key anew, and cannot spread one over several cells.
        for handle in self._hive.node_values(node):
            if self._hive.value_type(handle)[1] > PLAIN_LIMIT:
                raise Damaged("a value beside it is too large to be written again")


def _parts(path: str) -> list[str]:
    parts = path.split("\\") if path else []
    if len(parts) > DEEPEST:
        raise Damaged(f"keys are more than {DEEPEST} deep")
    return parts


def _read(connection: socket.socket, count: int) -> bytes:
    whole = b""
    while len(whole) < count:
        more = connection.recv(count - len(whole))
        if not more:
            sys.exit(0)
        whole += more
    return whole


def _answer(server: Server, request: list[Any]) -> dict[str, Any]:
    name, *arguments = request
    try:
        return {"ok": getattr(server, name)(*arguments)}
    except (Damaged, RuntimeError, OSError, ValueError, MemoryError, ImportError, TypeError) as error:
        return {"error": f"{type(error).__name__}: {error}"[:400]}


def main() -> None:
    """Serve until the other side closes the socket."""
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=int(sys.argv[1]))
    server = Server()
    while True:
        (length,) = struct.unpack("!I", _read(connection, 4))
        answer = json.dumps(_answer(server, json.loads(_read(connection, length)))).encode()
        connection.sendall(struct.pack("!I", len(answer)) + answer)


if __name__ == "__main__":
    main()
