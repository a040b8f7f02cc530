"""Hypervisors: one file each with a `TARGET`, and the registry."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from functools import partial

from p2v.errors import UsageError
from p2v.model import Finding, Plan, Platform, Severity
from p2v.targets import (
    hyperv,
    kubevirt,
    libvirt,
    openstack,
    proxmox,
    raw,
    virtualbox,
    virtualserver,
    vmware,
    vsphere,
    xen,
)
from p2v.targets.base import ConfigFile, Option, Target

__all__ = ["TARGETS", "ConfigFile", "Option", "Target", "find_target", "target_of"]

TARGETS: dict[str, Target] = {
    "libvirt": libvirt.TARGET,
    "vmware": vmware.TARGET,
    "vsphere": vsphere.TARGET,
    "hyperv": hyperv.TARGET,
    "virtualserver": virtualserver.TARGET,
    "virtualbox": virtualbox.TARGET,
    "xen": xen.TARGET,
    "proxmox": proxmox.TARGET,
    "openstack": openstack.TARGET,
    "kubevirt": kubevirt.TARGET,
    "raw": raw.TARGET,
}


def find_target(name: str, options: Sequence[str] = ()) -> Target:
    """The target called `name`, with the choices that are made.

    `name` may have some behind a colon, `vmware:esx8,config=ova`; `options` are more of them. Each is
    `KEY=VALUE`, or a value that says enough. Raises UsageError with the nearest name there is, and for what
    the target does not offer.
    """
    plain, _, behind = name.partition(":")
    if plain not in TARGETS:
        near = difflib.get_close_matches(plain, TARGETS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Targets: {', '.join(TARGETS)}"
        raise UsageError(f"There is no target {plain!r}", hint=f"{hint} See: p2v targets")
    words = (*(word for word in behind.split(",") if word), *options)
    target = TARGETS[plain].with_settings(words)
    return dataclasses.replace(target, check=partial(_check, target.check))


def target_of(platform: Platform) -> Target:
    """The target that a plan was made for, with the settings it was made with."""
    return dataclasses.replace(find_target(platform.name), platform=platform)


def _check(check: Callable[[Plan], tuple[Finding, ...]], plan: Plan) -> tuple[Finding, ...]:
    """What does not fit, with the targets where it would."""
    found = check(plan)
    if not any(finding.severity is Severity.BLOCKER for finding in found):
        return found
    others = [name for name, target in TARGETS.items() if _takes(target, plan)]
    if not others:
        return found
    last = found[-1]
    hint = f"{last.hint + '; or' if last.hint else 'Try'} another target that takes it: {', '.join(others)}"
    return (*found[:-1], dataclasses.replace(last, hint=hint))


def _takes(target: Target, plan: Plan) -> bool:
    """Whether a target, without settings, takes the machine of a plan as it is."""
    platform = target.fit(target.platform, plan.firmware)
    if platform == plan.platform:
        return False
    found = target.check(dataclasses.replace(plan, platform=platform))
    return not any(finding.severity is Severity.BLOCKER for finding in found)
