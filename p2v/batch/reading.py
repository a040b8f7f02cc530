"""From the file to a manifest: every mistake in one go, each with its line and column."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from p2v.batch import document, ordering, words
from p2v.batch.document import Items, Mark, Mistake, Node, Place, Table, shown_key
from p2v.batch.entries import Draft, effective, make_entry
from p2v.batch.manifest import Entry, HostLimits, Manifest
from p2v.batch.schema import (
    HookForm,
    HooksForm,
    HostForm,
    MachineForm,
    ManifestForm,
    SettingsForm,
    VsphereForm,
)
from p2v.errors import UsageError
from p2v.model import Goal
from p2v.run_folder import check_name

F = TypeVar("F", bound=BaseModel)

SHOWN_MISTAKES = 100
DEFAULT_OUTPUT = Path("p2v-runs")
FORMS: dict[str, type[BaseModel]] = {
    "defaults": SettingsForm, "machines": MachineForm, "hooks": HooksForm, "hosts": HostForm,
    "vsphere": VsphereForm, "before": HookForm, "after": HookForm,
}  # fmt: skip
"""What the tables under these keys are."""
_TABLE = ("{name} should be a table (key: value)", "")
SAID = {
    "missing": ("{key} is missing", ""),
    "too_short": ("{name} is empty", ""),
    "string_too_short": ("{name} is empty", ""),
    "string_type": ("{name} should be text", 'Put it in quotes: "no", "0123"'),
    "model_type": _TABLE,
    "dict_type": _TABLE,
}
"""pydantic's errors in our words: the message and what to do."""
SECRET_KEYS = ("password", "passphrase")
SECRET_HINT = "Name where it is, never the password itself: env:NAME, file:PATH or prompt"


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of a file: a manifest, or what is wrong with it, in the order of the file."""

    path: Path
    manifest: Manifest | None
    mistakes: tuple[Mistake, ...] = ()

    def require(self) -> Manifest:
        """The manifest. Raises UsageError with all mistakes."""
        if self.manifest is None:
            raise UsageError(self.text(), hint="Its form: p2v batch --schema")
        return self.manifest

    def text(self) -> str:
        count = len(self.mistakes)
        lines = [f"  {mistake}" for mistake in self.mistakes[:SHOWN_MISTAKES]]
        if count > SHOWN_MISTAKES:
            lines.append(f"  and {count - SHOWN_MISTAKES} more")
        return f"{self.path} has {count} mistake{'' if count == 1 else 's'}:\n" + "\n".join(lines)


def read_manifest(path: Path, output: Path | None = None) -> Reading:
    """Read and check a manifest; `output` is stronger than what it says itself. Nothing is connected to.

    Raises UsageError for a file that is no text.
    """
    text = document.read_text(path)
    try:
        root, mistakes = document.compose(text)
    except document.Unreadable as error:
        return Reading(path, None, (error.mistake,))
    reader = _Reader(path, root, list(mistakes))
    manifest = reader.read(output)
    found = tuple(sorted(set(reader.mistakes)))
    return Reading(path, None if found else manifest, found)


@dataclass(slots=True)
class _Reader:
    path: Path
    root: Node
    mistakes: list[Mistake]
    drafts: list[Draft] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.path.absolute().parent

    def read(self, output: Path | None) -> Manifest | None:
        if not isinstance(self.root, Table):
            self.mistakes.append(Mistake(self.root.mark, "a manifest is a table: machines: …"))
            return None
        top = self._top(self.root)
        plain = document.get(self.root, ("defaults",))
        defaults = self._form(SettingsForm, plain.plain() if plain else {}, ("defaults",)) or SettingsForm()
        self._check_settings(defaults, ("defaults",))
        if top:
            self._check_top(top)
        machines = document.get(self.root, ("machines",))
        for number in range(len(machines.values) if isinstance(machines, Items) else 0):
            self._machine(number, defaults)
        self._check_names()
        self._check_order()
        if self.mistakes or top is None:
            return None
        return self._manifest(top, output)

    def _top(self, root: Table) -> ManifestForm | None:
        """All but the machines, which are looked at one by one."""
        apart = ("defaults", "machines")
        plain = {key: entry.value.plain() for key, entry in root.entries.items() if key not in apart}
        machines = root.entries.get("machines")
        if machines is not None:
            is_list = isinstance(machines.value, Items) and bool(machines.value.values)
            plain["machines"] = [{"source": "x"}] if is_list else machines.value.plain()
        return self._form(ManifestForm, plain, ())

    def _form(self, form: type[F], plain: document.Plain, place: Place) -> F | None:
        """What is right of a table, so that the rest of it is checked too; None where too much is wrong."""
        try:
            return form.model_validate(plain)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False, include_context=True)
        self.mistakes += [self._explained(form, detail, place) for detail in details]
        left = [_prune(plain, detail["loc"], lacks=detail["type"] == "missing") for detail in details]
        if not all(left):
            return None
        with contextlib.suppress(ValidationError):
            return form.model_validate(plain)
        return None

    def _explained(self, form: type[BaseModel], detail: ErrorDetails, place: Place) -> Mistake:
        inner: Place = detail["loc"]
        where = (*place, *inner)
        key = str(inner[-1]) if inner else ""
        if detail["type"] == "extra_forbidden":
            mark = document.find_key(self.root, where)
            return Mistake(
                mark, f"{shown_key(key)} is not known here", self._nearest(key, _keys(form, inner))
            )
        message, hint = _said(detail, key, _name(where))
        return Mistake(document.find(self.root, where), message, hint)

    def _nearest(self, word: str, known: Iterable[str]) -> str:
        """Not looked for once there are more mistakes than anybody reads."""
        return _nearest(word, known) if len(self.mistakes) < SHOWN_MISTAKES else ""

    def _add(self, place: Place, message: str, hint: str = "") -> None:
        self.mistakes.append(Mistake(document.find(self.root, place), message, hint))

    def _try(self, place: Place, check: Callable[[], object]) -> None:
        try:
            check()
        except UsageError as error:
            self._add(place, f"{_name(place)}: {error.message}", error.hint)

    def _check_top(self, top: ManifestForm) -> None:
        for key in ("limit", "limit_windows"):
            value = getattr(top, key)
            if value is not None:
                check = words.CHECKS.get(key) or words.WORD_CHECKS[key]
                self._try((key,), lambda check=check, value=value: check(value))  # type: ignore[misc]
        for name, host in (top.hosts or {}).items():
            self._check_host(name, host)

    def _check_host(self, name: str, host: HostForm) -> None:
        self._try(("hosts", name), lambda: words.check_host(name))
        if host.limit is not None:
            self._try(("hosts", name, "limit"), lambda: words.WORD_CHECKS["limit"](host.limit or ""))

    def _machine(self, number: int, defaults: SettingsForm) -> None:
        place: Place = ("machines", number)
        node = cast(Items, document.get(self.root, ("machines",))).values[number]
        form = self._form(MachineForm, node.plain(), place)
        if form is None:
            return
        self._check_settings(form, place)
        try:
            source = words.source_of(form.source, self.folder)
            name = form.name if form.name is not None else words.name_of(source)
        except UsageError as error:
            self._add((*place, "source"), f"source: {error.message}", error.hint)
            return
        self._try((*place, "name"), lambda: check_name(name, what="run"))
        settings = effective(defaults, form)
        said = self._says(place, "to") or self._says(("defaults",), "to")
        if not said and settings.goal is not Goal.CAPTURE:
            self._add(place, "it has no target", "Say it here or in defaults: to: libvirt")
        if words.imports(settings.to or ()):
            self._check_server(settings.vsphere or VsphereForm(), place)
        elif form.vsphere is not None:
            self._add((*place, "vsphere"), "vsphere belongs to a live import", "Say: to: vsphere")
        self.drafts.append(Draft(number, name, source, settings, form, node.mark.line))

    def _check_server(self, vsphere: VsphereForm, place: Place) -> None:
        """A live import needs a server and a user; what is said of them is checked where it is said."""
        for key in ("server", "user"):
            said = any(self._says((*where, "vsphere"), key) for where in (place, ("defaults",)))
            if getattr(vsphere, key) is None and not said:
                self._add(place, f"a live import needs vsphere.{key}", "Say it here or in defaults")

    def _says(self, place: Place, key: str) -> bool:
        """Whether something stands there, right or wrong."""
        table = document.get(self.root, place)
        entry = table.entries.get(key) if isinstance(table, Table) else None
        return entry is not None and entry.value.plain() is not None

    def _check_settings(self, form: SettingsForm, place: Place) -> None:
        """What was said here, and not what comes from the defaults, so that a mistake is told once."""
        for key in form.model_fields_set:
            value = getattr(form, key)
            if value is None:
                continue
            if key in words.CHECKS:
                self._try((*place, key), lambda key=key, value=value: words.CHECKS[key](value))  # type: ignore[misc]
            elif key in words.WORD_CHECKS:
                self._try((*place, key), lambda key=key, value=value: words.WORD_CHECKS[key](value))  # type: ignore[misc]
            elif key in words.FILES:
                for word in value if isinstance(value, list) else [value]:
                    self._try((*place, key), lambda word=word, key=key: words.FILES[key](word, self.folder))  # type: ignore[misc]
            elif isinstance(value, VsphereForm):
                self._try((*place, key), lambda value=value: words.check_vsphere(value, self.folder))  # type: ignore[misc]
            elif isinstance(value, HooksForm):
                self._check_hooks(value, (*place, key))

    def _check_hooks(self, hooks: HooksForm, place: Place) -> None:
        for when, forms in (("before", hooks.before), ("after", hooks.after)):
            for number, form in enumerate(forms):
                self._try(
                    (*place, when, number),
                    lambda form=form: words.hook(form.run, form.timeout, self.folder),  # type: ignore[misc]
                )

    def _check_names(self) -> None:
        """No two machines of one name or one source, no group of the name of a machine."""
        names: dict[str, Draft] = {}
        sources: dict[tuple[str, ...], Draft] = {}
        groups = {group for draft in self.drafts for group in draft.settings.groups or ()}
        for draft in self.drafts:
            self._check_twice(names, draft.name.lower(), draft, "name", f"the name {draft.name}")
            key = (words.key_of(draft.source), *sorted(draft.settings.disks or ()))
            self._check_twice(sources, key, draft, "source", "this source")
            if draft.name in groups:
                self._add(("machines", draft.number, "name"), f"{draft.name} is the name of a group too")

    def _check_twice(self, seen: dict[K, Draft], key: K, draft: Draft, field: str, what: str) -> None:
        first = seen.setdefault(key, draft)
        if first is not draft:
            place: Place = ("machines", draft.number, field)
            hint = "" if field == "source" else "Give one of them another name"
            self._add(place, f"{what} stands twice; the first is in line {first.line}", hint)

    def _check_order(self) -> None:
        groups: dict[str, list[str]] = {}
        for draft in self.drafts:
            for group in draft.settings.groups or ():
                groups.setdefault(group, []).append(draft.name)
        known = {draft.name for draft in self.drafts} | set(groups)
        for draft in self.drafts:
            for key in ("after", "needs"):
                self._check_known(draft, key, known)
        before = {draft.name: [*draft.before()] for draft in self.drafts if draft.before()}
        cycle = ordering.find_cycle(before, groups)
        if cycle:
            self._add_cycle(cycle, groups)

    def _check_known(self, draft: Draft, key: str, known: set[str]) -> None:
        for number, word in enumerate(getattr(draft.settings, key) or ()):
            if word not in known:
                place: Place = ("machines", draft.number, key, number)
                own = key in draft.form.model_fields_set
                self._add(
                    place if own else ("defaults", key, number),
                    f"{key}: there is no machine and no group {shown_key(word)}",
                    self._nearest(word, known),
                )

    def _add_cycle(self, cycle: tuple[str, ...], groups: Iterable[str]) -> None:
        draft = next(draft for draft in self.drafts if draft.name in cycle)
        # Told from the machine that stands first in the file.
        ring = cycle[:-1]
        start = ring.index(draft.name)
        turned = (*ring[start:], *ring[:start], draft.name)
        text = ordering.describe_cycle(turned, groups)
        self._add(("machines", draft.number, "after"), f"these wait for each other: {text}")

    def _manifest(self, top: ManifestForm, output: Path | None) -> Manifest:
        folder = output or (words.absolute(top.output, self.folder) if top.output else DEFAULT_OUTPUT)
        entries: list[Entry] = [
            make_entry(draft, self.folder, folder.absolute(), self.path.name) for draft in self.drafts
        ]
        hosts = tuple(
            HostLimits(name.lower(), host.parallel, host.limit or "")
            for name, host in (top.hosts or {}).items()
        )
        return Manifest(
            path=self.path,
            output=folder.absolute(),
            entries=tuple(entries),
            parallel=top.parallel,
            limit=top.limit or "",
            limit_windows=tuple(top.limit_windows or ()),
            per_host=top.per_host,
            hosts=hosts,
        )


K = TypeVar("K")


def _prune(plain: document.Plain, place: Place, *, lacks: bool) -> bool:
    """Take the value at a place out, with the list that it is in, or the table that `lacks` it. False where
    nothing is left then.
    """
    parent: dict[str, document.Plain] | None = None
    key = ""
    for step in place:
        if not isinstance(plain, dict):
            break
        if step not in plain:
            # Unless it was never there, another mistake has taken it out already.
            if not lacks:
                return True
            break
        parent, key = plain, str(step)
        plain = plain[key]
    if parent is None:
        return False
    del parent[key]
    return True


def _said(detail: ErrorDetails, key: str, name: str) -> tuple[str, str]:
    """What is wrong with a value, and what to do; never the value."""
    kind = detail["type"]
    if kind == "string_pattern_mismatch":
        return (
            (f"{key} is no reference", SECRET_HINT)
            if key in SECRET_KEYS
            else (f"{name} is one of: continue, stop, retry N", "")
        )
    if kind in SAID:
        text, hint = SAID[kind]
        return text.format(key=key, name=name), hint
    said = detail["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{name} {said[0].lower()}{said[1:]}", ""


def _name(place: Place) -> str:
    """`defaults.limit`, `disks`: the value's name, without the number of the machine."""
    parts = [str(step) for step in place if not isinstance(step, int)]
    return ".".join(parts[1:] if parts[:1] == ["machines"] and len(parts) > 1 else parts) or "this"


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word.replace("-", "_"), list(known)[:2000], n=1, cutoff=0.5)
    near = near or difflib.get_close_matches(word, list(known)[:2000], n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else ""


def _keys(form: type[BaseModel], place: Place) -> Iterator[str]:
    """The keys that may stand where the last key of a place does."""
    inner = form
    for step in place[:-1]:
        inner = FORMS.get(str(step), inner)
    yield from inner.model_fields


__all__ = ["Mark", "Mistake", "Reading", "read_manifest"]
