"""Hypervisors: one file each with `PLATFORM`, `check(plan)` and a pure `render(vm, …)`, and the registry."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2v.errors import UsageError
from p2v.model import Finding, Plan, Platform, VirtualMachine
from p2v.targets import libvirt
from p2v.targets.base import ConfigFile

__all__ = ["TARGETS", "ConfigFile", "Target", "find_target"]


@dataclass(frozen=True, slots=True)
class Target:
    """What one file of this folder gives. `start` is the command that an administrator types next."""

    platform: Platform
    check: Callable[[Plan], tuple[Finding, ...]]
    render: Callable[[VirtualMachine, Path], tuple[ConfigFile, ...]]
    configuration: str
    start: str


TARGETS: dict[str, Target] = {
    "libvirt": Target(
        libvirt.PLATFORM,
        libvirt.check,
        libvirt.render,
        "domain XML",
        "virsh define {config} && virsh start {name}",
    ),
}


def find_target(name: str) -> Target:
    """The target called `name`. Raises UsageError with the nearest name there is."""
    if name in TARGETS:
        return TARGETS[name]
    near = difflib.get_close_matches(name, TARGETS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Targets: {', '.join(TARGETS)}"
    raise UsageError(f"There is no target {name!r}", hint=f"{hint} See: p2v targets")
