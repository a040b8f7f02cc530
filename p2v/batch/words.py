"""What single values of a manifest must be: each check raises UsageError, and repeats no secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from p2v import command, guest_wishes
from p2v.batch.manifest import Answer, Hook, OnFailure
from p2v.batch.schema import VsphereForm
from p2v.errors import UsageError
from p2v.job import parse_size
from p2v.retry import parse_duration
from p2v.run_folder import check_name
from p2v.targets import find_target
from p2v.transports import TRANSPORTS
from p2v.transports.image import image_files
from p2v.transports.rate import Window, parse_rate, parse_windows
from p2v.transports.ssh_config import parse_address
from p2v.vsphere.credentials import parse_password
from p2v.vsphere.settings import Destination, Placement, Provisioning, Server, parse_network
from p2v.vsphere.settings import parse_address as parse_server
from p2v.vsphere.trust import parse_thumbprint

VSPHERE = "vsphere"

HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")


@lru_cache(maxsize=4096)
def target_label(word: str) -> str:
    """By which two targets are told apart. Raises UsageError."""
    return find_target(word).platform.label


def imports(words: Iterable[str]) -> bool:
    """Whether one of the targets is a live import."""
    return any(word.partition(":")[0] == VSPHERE for word in words)


def check_targets(words: Iterable[str]) -> None:
    labels = [target_label(word) for word in words]
    twice = next((label for label in labels if labels.count(label) > 1), "")
    if twice:
        raise UsageError(f"the target {twice} is named twice")


def time_windows(words: Iterable[str]) -> tuple[Window, ...]:
    """When a job may start. The rate of these windows means nothing."""
    found: list[Window] = []
    for word in words:
        try:
            found += parse_windows([f"{word}=1"])
        except UsageError:
            raise UsageError(
                f"{word!r} is not a window of time", hint='For example "Sat,Sun 00:00-24:00" or "22:00-06:00"'
            ) from None
    return tuple(found)


def check_hostname(word: str) -> None:
    if not guest_wishes.HOSTNAME.fullmatch(word) or word.endswith("-"):
        raise UsageError(f"{word!r} is not a host name")


def check_services(words: Iterable[str]) -> None:
    for word in words:
        if not guest_wishes.SERVICE.fullmatch(word):
            raise UsageError(f"{word!r} is not the name of a service")


def check_reference(word: str) -> None:
    parse_password(word)


def check_memory(word: str) -> None:
    parse_size(word)


def check_host(word: str) -> None:
    if not HOST.fullmatch(word):
        raise UsageError(f"{word!r} is not the name of a host")


def check_group(words: Iterable[str]) -> None:
    for word in words:
        check_name(word, what="group")


def check_vsphere(form: VsphereForm, folder: Path) -> None:
    """What a table says itself. Raises UsageError."""
    if form.server is not None:
        parse_server(form.server)
    if form.ca_file is not None:
        check_file(form.ca_file, folder)
    if form.thumbprint:
        parse_thumbprint(form.thumbprint)
    for word in form.networks or ():
        parse_network(word)


def destination(form: VsphereForm, folder: Path) -> Destination:
    """Raises UsageError where it is not said which server, and who logs in there."""
    if form.server is None or form.user is None:
        missing = "server" if form.server is None else "user"
        raise UsageError(f"a live import needs {missing}", hint=f"Say it here or in defaults: {missing}: …")
    host, port = parse_server(form.server)
    server = Server(
        host=host,
        port=port,
        user=form.user,
        password=parse_password(reference(form.password, folder) or "prompt"),
        ca_file=absolute(form.ca_file, folder) if form.ca_file else None,
        thumbprint=parse_thumbprint(form.thumbprint) if form.thumbprint else "",
    )
    places = ("datacenter", "cluster", "host", "resource_pool", "datastore", "folder")
    return Destination(
        server,
        Placement(
            **{name: getattr(form, name) or "" for name in places},
            networks=tuple(parse_network(word) for word in form.networks or ()),
            provisioning=form.provisioning or Provisioning.THIN,
            power_on=bool(form.power_on),
        ),
    )


def reference(word: str | None, folder: Path) -> str:
    """A reference whose file is found from anywhere."""
    kind, _, name = (word or "").partition(":")
    return f"file:{absolute(name, folder)}" if kind == "file" else word or ""


CHECKS: dict[str, Callable[[list[str]], object]] = {
    "to": check_targets,
    "limit_windows": parse_windows,
    "windows": time_windows,
    "disable_services": check_services,
    "groups": check_group,
}
"""For lists of words."""

WORD_CHECKS: dict[str, Callable[[str], object]] = {
    "memory": check_memory,
    "limit": parse_rate,
    "retry_for": parse_duration,
    "password": check_reference,
    "passphrase": check_reference,
    "hostname": check_hostname,
    "host": check_host,
}


def absolute(word: str, folder: Path) -> Path:
    return folder / Path(word).expanduser()


def check_file(word: str, folder: Path) -> None:
    path = absolute(word, folder)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")


def check_drivers(word: str, folder: Path) -> None:
    path = absolute(word, folder)
    if not path.exists():
        raise UsageError(f"there is no folder and no file {path}")


FILES: dict[str, Callable[[str, Path], None]] = {
    "identity": check_file,
    "known_hosts": check_file,
    "run_first_boot": check_file,
    "luks_key_files": check_file,
    "drivers": check_drivers,
}
"""Values that name files, which are looked for when the manifest is checked; drivers may be in a folder."""


def source_of(word: str, folder: Path) -> str:
    """A source with its paths made absolute. Raises UsageError for one that cannot be reached as written."""
    scheme, colon, _ = word.partition("://")
    if colon and scheme not in TRANSPORTS:
        known = ", ".join(f"{name}://" for name in TRANSPORTS)
        raise UsageError(
            f"{scheme[:20]}:// is not a way to reach a machine", hint=f"Known: {known} or a path"
        )
    if colon and scheme != "file":
        if scheme == "ssh":
            parse_address(word)
        return word
    path = word.removeprefix("file://")
    if (folder / path).exists():
        return str(folder / path)
    files = image_files(word)
    for file in files:
        check_file(str(file.path), folder)
    paths = [(file.name, folder / file.path) for file in files]
    return ",".join(f"{name}={path}" if name else str(path) for name, path in paths)


def host_of(source: str) -> str:
    """What the limits of hosts count by, where nobody says otherwise; empty for images."""
    return parse_address(source).host.lower() if source.startswith("ssh://") else ""


def name_of(source: str) -> str:
    """The name of a run where nobody gives one: the host, or what the image is called."""
    host = host_of(source)
    plain = host or ("" if "://" in source else image_files(source)[0].path.stem)
    return re.sub(r"[^A-Za-z0-9._-]", "-", plain).lstrip(".-")[:64]


def key_of(source: str) -> str:
    """The same for two ways to write one source, as far as one can tell without asking it."""
    if not source.startswith("ssh://"):
        return source
    address = parse_address(source)
    return f"ssh://{address.host.lower()}:{address.port or 22}"


def hook(argv: Iterable[str], timeout: str, folder: Path) -> Hook:
    """A program that is there, with its time limit. A path is relative to the folder of the manifest."""
    program, *arguments = argv
    path = str(absolute(program, folder)) if "/" in program else program
    found = command.find_tool(path)
    if found is None:
        raise UsageError(f"there is no program {program!r}", hint="It must exist and be executable here")
    return Hook((found, *arguments), parse_duration(timeout))


def on_failure(word: str) -> OnFailure:
    if word.startswith("retry"):
        return OnFailure(Answer.CONTINUE, int(word.split()[1]))
    return OnFailure(Answer(word))
