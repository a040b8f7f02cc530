"""What the user chose to change beyond what a boot needs. The default keeps everything."""

from __future__ import annotations

from conversions import services
from conversions.changes import Changes
from conversions.clean_up.agents import stop_agents
from conversions.clean_up.first_boot import install_script
from conversions.clean_up.identity import rename, renew_identity
from conversions.request import Request
from p2v.model import Choice


def clean_up(changes: Changes, request: Request) -> None:
    """Do what was chosen; what the guest has no way for costs a warning that says so."""
    chosen = request.clean_up
    for removal in chosen.remove:
        stop_agents(changes, removal, platform=request.platform.name)
    for service in chosen.disable:
        if not services.disable(changes, service, "disabled as the job asked"):
            changes.warn(f"The guest has no service {service} that could be disabled")
    if chosen.identity is Choice.NEW:
        renew_identity(changes)
    if chosen.hostname:
        rename(changes, request.machine, chosen.hostname)
    if request.first_boot:
        install_script(changes, request.first_boot)
