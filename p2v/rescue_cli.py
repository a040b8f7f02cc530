"""`p2v rescue …`: the system that a machine is started with to be captured or restored while it is idle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2v.options import common_options, make_house
from p2v.ui import human_size

if TYPE_CHECKING:
    from p2v.rescue import Rescue


@click.group("rescue")
def group() -> None:
    """A small system for machines that cannot be captured while they run, or that are restored."""


@group.command("build")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("p2v-rescue.iso"),
    show_default=True,
    help="The image; kernel and initrd for PXE are written beside it.",
)
@click.option(
    "--authorized-key",
    "key_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A public key that may log in; default: yours in ~/.ssh. May be repeated.",
)
@click.option(
    "--address",
    default="",
    metavar="ADDRESS/PREFIX[,GATEWAY[,DNS]]",
    help="A static address instead of DHCP; ip= on the kernel command line says another one.",
)
@click.option(
    "--package",
    "packages",
    multiple=True,
    help="A further Debian package in it, such as firmware-bnx2. May be repeated.",
)
@click.option("--anew", is_flag=True, help="Install the newest packages instead of what was built before.")
@common_options
def build_command(key_files: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Build an image that BIOS and UEFI start, from CD, USB stick and PXE."""
    from p2v.rescue import Order, build_rescue, read_keys

    house = make_house(options)
    order = Order(keys=read_keys(key_files, home=Path.home()), **options)
    made = build_rescue(order, house.home / "cache" / "rescue", house.ui)
    house.ui.result(rescue_json(made) if as_json else rescue_text(made))


def rescue_json(made: Rescue) -> str:
    from pydantic import TypeAdapter

    return TypeAdapter(type(made)).dump_json(made, indent=2).decode()


def rescue_text(made: Rescue) -> str:
    """For a person: the files, what they are for, and what comes next."""
    return "\n".join(
        [
            f"{made.iso.path}: {made.system}, kernel {made.version}, {human_size(made.iso.size)}",
            f"  sha256  {made.iso.sha256}",
            f"  PXE     {made.kernel.path} and {made.initrd.path}",
            f"  address {made.address or 'by DHCP'} (another: ip=ADDRESS/PREFIX,GATEWAY,DNS for the kernel)",
            *(f"  key     {key}" for key in made.keys),
            "Write it to a USB stick or start a machine from it as a CD; its screen shows what to type then.",
        ]
    )
