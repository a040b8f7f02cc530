"""The form of a manifest at the border: pydantic models, out of which `p2v batch --schema` is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from p2v.model import Choice, ConsistencyWish, Goal, Removal
from p2v.vsphere.settings import Provisioning

PASSWORD_PATTERN = r"^(env:[^\s]+|file:.+|prompt)$"
FAILURE_PATTERN = r"^(continue|stop|retry [1-9][0-9]?)$"


def _one_or_many(value: Any) -> Any:
    """A single word stands for a list of one."""
    return [value] if isinstance(value, str | int | float | bool) else value


def _number_as_text(value: Any) -> Any:
    """`limit: 1000000` and `retry_for: 90` are numbers to YAML."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _words(pattern: str = "") -> WithJsonSchema:
    word: dict[str, Any] = {"type": "string"} | ({"pattern": pattern} if pattern else {})
    return WithJsonSchema({"anyOf": [word, {"type": "array", "items": word}]})


Words = Annotated[list[str], BeforeValidator(_one_or_many), _words()]
Quantity = Annotated[
    str,
    BeforeValidator(_number_as_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]
_REMOVAL: dict[str, Any] = {"enum": [removal.value for removal in Removal]}
Removals = Annotated[
    list[Removal],
    BeforeValidator(_one_or_many),
    WithJsonSchema({"anyOf": [_REMOVAL, {"type": "array", "items": _REMOVAL}]}),
]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False, hide_input_in_errors=True, frozen=True)


class HookForm(Form):
    """A program that is run on the machine where p2v runs, without a shell."""

    run: list[str] = Field(min_length=1, description="The program and its arguments.")
    timeout: Quantity = Field(default="5m", description="How long it may take: 90s, 5m, 1h.")


class HooksForm(Form):
    """Programs around a conversion. They learn of it through variables: P2V_NAME, P2V_SOURCE,
    P2V_DIRECTORY, P2V_MANIFEST, P2V_GROUPS, and behind it also P2V_RESULT (done, failed), P2V_EXIT_CODE.
    """

    before: list[HookForm] = Field(
        default=[],
        description="Run in order before the source is reached; one that fails keeps the job from starting.",
    )
    after: list[HookForm] = Field(default=[], description="Run in order behind the job, however it ended.")


class VsphereForm(Form):
    """Where a live import (`to: vsphere`) goes; what a machine says is added to what the defaults say."""

    server: str | None = Field(default=None, description="The vCenter or ESXi host: HOST[:PORT].")
    user: str | None = Field(default=None, min_length=1, description="Who logs in there.")
    password: str | None = Field(
        default=None, pattern=PASSWORD_PATTERN, description="env:NAME, file:PATH or prompt (default)."
    )
    ca_file: str | None = Field(default=None, min_length=1, description="CA certificates to verify it with.")
    thumbprint: str | None = Field(default=None, description="Of the one certificate to believe.")
    datacenter: str | None = Field(default=None, description="The datacenter, where there are several.")
    cluster: str | None = Field(default=None, description="The cluster that runs the machine.")
    host: str | None = Field(default=None, description="The host that runs it.")
    resource_pool: str | None = Field(default=None, description="Default: the root of the cluster or host.")
    datastore: str | None = Field(default=None, description="Where its disks go.")
    folder: str | None = Field(default=None, description="The folder of the inventory, as a path.")
    networks: Words | None = Field(
        default=None, description="SRC=DST for a card by its name on the source; DST alone for all."
    )
    provisioning: Provisioning | None = Field(default=None, description="How the datastore holds the disks.")
    power_on: bool | None = Field(default=None, description="Start the machine once it is imported.")


class SettingsForm(Form):
    """What may stand in `defaults` and, stronger, at each machine."""

    to: Words | None = Field(
        default=None, description="The target, or several: libvirt, vmware:esx8. See p2v targets."
    )
    goal: Goal | None = Field(default=None, description="capture: the disks alone, which costs no unit.")
    disks: Words | None = Field(default=None, description="Only these disks: path, serial or WWN.")
    cpus: int | None = Field(default=None, ge=1, le=1024, description="Processors of the virtual machine.")
    memory: Quantity | None = Field(default=None, description="Memory of the virtual machine: 512M, 4G.")
    prove: bool | None = Field(
        default=None, description="Boot the result in isolation and show that it does."
    )
    limit: Quantity | None = Field(
        default=None, description="At most so many bytes a second from this source: 20M."
    )
    limit_windows: Words | None = Field(
        default=None, description='Another limit at times: "Mon-Fri 08:00-18:00=20M".'
    )
    identity: str | None = Field(default=None, min_length=1, description="Private key file for the source.")
    known_hosts: str | None = Field(default=None, min_length=1, description="Instead of ~/.ssh/known_hosts.")
    accept_new_host_key: bool | None = Field(
        default=None, description="Remember the key of a host that is not known."
    )
    password: str | None = Field(
        default=None,
        pattern=PASSWORD_PATTERN,
        description="Where the password of the login is: env:NAME, file:PATH or prompt. Never the password.",
    )
    passphrase: str | None = Field(
        default=None, pattern=PASSWORD_PATTERN, description="The same for the private key file."
    )
    consistency: ConsistencyWish | None = Field(
        default=None, description="How the copy of a running machine becomes one of a single moment."
    )
    freeze_limit: float | None = Field(
        default=None, ge=1, le=3600, description="Seconds that the filesystems of the source may be frozen."
    )
    allow_bad_sectors: bool | None = Field(default=None, description="Zeros where a disk cannot be read.")
    retry_for: Quantity | None = Field(
        default=None, description="How long to try a lost connection again: 2h."
    )
    mac: Choice | None = Field(default=None, description="Addresses of the network cards: keep or new.")
    remove: Removals | None = Field(
        default=None, description="Stop what is of no use in the virtual machine."
    )
    guest_identity: Choice | None = Field(
        default=None, description="machine-id and SSH host keys: keep or new."
    )
    hostname: str | None = Field(default=None, min_length=1, description="Give the guest another host name.")
    run_first_boot: str | None = Field(
        default=None, min_length=1, description="A script that the guest runs once, at its first boot."
    )
    disable_services: Words | None = Field(default=None, description="Services that start no more.")
    luks_key_files: Words | None = Field(
        default=None, description="Files whose first line is the passphrase of an encrypted disk."
    )
    drivers: str | None = Field(
        default=None, min_length=1, description="Drivers for a Windows guest: a folder, or an ISO image."
    )
    vsphere: VsphereForm | None = Field(
        default=None, description="Where a live import goes, and its networks."
    )
    windows: Words | None = Field(
        default=None,
        description='When the job may start: "Sat,Sun 00:00-24:00", "22:00-06:00"; else at any time.',
    )
    host: str | None = Field(
        default=None,
        min_length=1,
        description="What the limits of `hosts` count by; default: the host of an SSH source.",
    )
    groups: Words | None = Field(
        default=None, description="Names under which `after`, `needs` and --only find it."
    )
    after: Words | None = Field(
        default=None,
        description="Machines or groups that must have ended before this one starts, well or not.",
    )
    needs: Words | None = Field(
        default=None,
        description="Machines or groups that must have ended well; otherwise this one does not start.",
    )
    hooks: HooksForm | None = Field(default=None, description="Programs to run before and after.")
    on_failure: str | None = Field(
        default=None,
        pattern=FAILURE_PATTERN,
        description="continue with the others (default); stop: start no others; retry N: so many more tries.",
    )


class MachineForm(SettingsForm):
    """One machine."""

    source: str = Field(
        min_length=1,
        description="ssh://[user@]host[:port], or a disk image; sda=FIRST,sdb=SECOND for several.",
    )
    name: str | None = Field(
        default=None,
        description="Of the run and the virtual machine; default: the host of the source, or the image's.",
    )


class HostForm(Form):
    """Limits of a host that serves several sources."""

    parallel: int | None = Field(default=None, ge=1, le=1000, description="Jobs at a time from this host.")
    limit: Quantity | None = Field(
        default=None, description="Bytes a second from this host, over all its jobs: 50M."
    )


class ManifestForm(Form):
    """A manifest of `p2v batch`: defaults and machines. Paths are relative to the folder of the manifest."""

    version: Literal[1] = Field(default=1, description="Of this form.")
    output: str | None = Field(
        default=None, min_length=1, description="Folder that holds the runs; --output is stronger."
    )
    parallel: int | None = Field(
        default=None, ge=1, le=1000, description="Jobs at a time; --parallel is stronger."
    )
    limit: Quantity | None = Field(
        default=None, description="Bytes a second, shared by all jobs; --limit is stronger."
    )
    limit_windows: Words | None = Field(default=None, description="Another shared limit at times.")
    per_host: int | None = Field(default=None, ge=1, le=1000, description="Jobs at a time from any one host.")
    hosts: dict[str, HostForm] | None = Field(default=None, description="Limits of single hosts, by name.")
    defaults: SettingsForm | None = Field(
        default=None, description="What holds for machines that do not say otherwise."
    )
    machines: list[MachineForm] = Field(min_length=1, description="The machines, in order.")


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a manifest."""
    made = ManifestForm.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "p2v batch manifest"}
