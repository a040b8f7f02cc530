"""One machine of a manifest, its defaults filled in, as a job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from p2v.batch import words
from p2v.batch.manifest import Entry, Hook, Hooks, OnFailure
from p2v.batch.schema import HookForm, HooksForm, MachineForm, SettingsForm
from p2v.job import Job, parse_size
from p2v.model import FREEZE_SECONDS, Choice, ConsistencyWish, Goal

PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class Draft:
    """A machine by its number; `form` is what it says itself, `settings` all that holds for it."""

    number: int
    name: str
    source: str
    settings: SettingsForm
    form: MachineForm
    line: int

    def before(self) -> tuple[str, ...]:
        """What it waits for, for whatever reason."""
        return (*(self.settings.after or ()), *(self.settings.needs or ()))


def effective(defaults: SettingsForm, form: MachineForm) -> SettingsForm:
    """What a machine says, and the defaults where it says nothing."""
    said = {key: getattr(form, key) for key in form.model_fields_set if key in SettingsForm.model_fields}
    if form.vsphere is not None and defaults.vsphere is not None:
        more = {key: getattr(form.vsphere, key) for key in form.vsphere.model_fields_set}
        said["vsphere"] = defaults.vsphere.model_copy(update=more)
    return defaults.model_copy(update=said)


def make_entry(draft: Draft, folder: Path, output: Path, manifest: str) -> Entry:
    """The machine with everything filled in; `folder` is what its paths are relative to."""
    settings = draft.settings
    hooks = settings.hooks or HooksForm()
    return Entry(
        name=draft.name,
        job=_job(draft, folder, output),
        line=draft.line,
        groups=tuple(settings.groups or ()),
        after=tuple(settings.after or ()),
        needs=tuple(settings.needs or ()),
        windows=words.time_windows(settings.windows or ()),
        host=(settings.host or words.host_of(draft.source)).lower(),
        hooks=Hooks(_hooks(hooks.before, folder), _hooks(hooks.after, folder)),
        on_failure=words.on_failure(settings.on_failure) if settings.on_failure else OnFailure(),
        password_prompt=_prompt(draft, "password", manifest),
        passphrase_prompt=_prompt(draft, "passphrase", manifest),
    )


def _hooks(forms: Iterable[HookForm], folder: Path) -> tuple[Hook, ...]:
    return tuple(words.hook(form.run, form.timeout, folder) for form in forms)


def _prompt(draft: Draft, what: str, manifest: str) -> str:
    """The question that `prompt` stands for: one for all machines that have it from the defaults."""
    if getattr(draft.settings, what) != PROMPT:
        return ""
    own = what in draft.form.model_fields_set
    thing = "Password" if what == "password" else "Passphrase of the key"
    return f"{thing} for {draft.name}: " if own else f"{thing} for the machines of {manifest}: "


def _job(draft: Draft, folder: Path, output: Path) -> Job:
    settings = draft.settings
    goal = settings.goal or Goal.CONVERT
    goes = goal is Goal.CONVERT and words.imports(settings.to or ())
    return Job(
        source=draft.source,
        targets=tuple(settings.to or ()) if goal is Goal.CONVERT else (),
        output=output,
        name=draft.name,
        disks=tuple(settings.disks or ()),
        cpus=settings.cpus,
        memory=parse_size(settings.memory),
        prove=bool(settings.prove) and goal is Goal.CONVERT,
        limit=settings.limit or "",
        limit_windows=tuple(settings.limit_windows or ()),
        identity=_path(settings.identity, folder),
        known_hosts=_path(settings.known_hosts, folder),
        accept_new_host_key=bool(settings.accept_new_host_key),
        allow_bad_sectors=bool(settings.allow_bad_sectors),
        retry_for=settings.retry_for or "",
        mac=settings.mac or Choice.KEEP,
        remove=tuple(settings.remove or ()),
        guest_identity=settings.guest_identity or Choice.KEEP,
        hostname=settings.hostname or "",
        first_boot=_path(settings.run_first_boot, folder),
        disable_services=tuple(settings.disable_services or ()),
        luks_key_files=tuple(words.absolute(word, folder) for word in settings.luks_key_files or ()),
        consistency=settings.consistency or ConsistencyWish.AUTO,
        freeze_limit=settings.freeze_limit or FREEZE_SECONDS,
        goal=goal,
        password=words.reference(settings.password, folder),
        passphrase=words.reference(settings.passphrase, folder),
        drivers=_path(settings.drivers, folder),
        vsphere=words.destination(settings.vsphere, folder) if settings.vsphere and goes else None,
    )


def _path(word: str | None, folder: Path) -> Path | None:
    return words.absolute(word, folder) if word else None
