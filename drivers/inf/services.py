"""AddService and the sections behind it ("INF AddService Directive", windows-driver-docs)."""

from __future__ import annotations

from drivers.inf.files import binary_place
from drivers.inf.model import RegistryValue, Service
from drivers.inf.registry import added_values
from drivers.inf.strings import Inf, number
from drivers.inf.text import InfError, Line

ASSOCIATED = 0x00000002
"""SPSVCINST_ASSOCSERVICE: the service is the device's function driver."""
SERVICE_LIMIT = 20
STARTS = range(5)
ERROR_CONTROLS = range(4)
NAME_LIMIT = 256
"""Characters of a service's name (CreateService)."""


def services(inf: Inf, section: str) -> tuple[Service, ...]:
    """The services of a `.Services` section. Raises InfError for one that cannot be."""
    lines = inf.keyed(section, "addservice")
    if len(lines) > SERVICE_LIMIT:
        raise InfError(f"[{section}] has more than {SERVICE_LIMIT} services")
    # `AddService = ,2` says that the device needs no driver of its own.
    return tuple(_service(inf, line) for line in lines if line.field(0))


def _service(inf: Inf, line: Line) -> Service:
    name, flags, section, log, *_ = (*inf.fields(line), "", "", "")
    if section not in inf.sections:
        raise InfError(f"the section [{section[:40]}] of the service {name[:40]} is missing")
    return Service(
        name=_name(name),
        function_driver=bool(number(flags) & ASSOCIATED) if flags else False,
        type=number(_needed(inf, section, "servicetype")),
        start=_of(STARTS, _needed(inf, section, "starttype")),
        error_control=_of(ERROR_CONTROLS, _needed(inf, section, "errorcontrol")),
        binary=binary_place(_needed(inf, section, "servicebinary")),
        group=inf.value(section, "loadordergroup"),
        display_name=inf.value(section, "displayname"),
        description=inf.value(section, "description"),
        dependencies=inf.values(section, "dependencies"),
        values=added_values(inf, section),
        events=_events(inf, log),
    )


def _events(inf: Inf, section: str) -> tuple[RegistryValue, ...]:
    return added_values(inf, section) if section else ()


def _needed(inf: Inf, section: str, key: str) -> str:
    value = inf.value(section, key)
    if not value:
        raise InfError(f"[{section}] lacks {key}")
    return value


def _of(allowed: range, text: str) -> int:
    value = number(text)
    if value not in allowed:
        raise InfError(f"a service cannot have {text!r} there")
    return value


def _name(text: str) -> str:
    if len(text) > NAME_LIMIT or any(char in "\\/" or char < " " for char in text):
        raise InfError(f"no name of a service: {text[:40]!r}")
    return text
