"""Programs before and after a conversion: argument lists, a time limit each, variables instead of a shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from p2v import command
from p2v.atomic import write_atomically
from p2v.batch.manifest import Entry, Hook, Manifest

NOTE = "hooks-done"


def run_hooks(
    hooks: Sequence[Hook], entry: Entry, manifest: Manifest, extra: Mapping[str, str] | None = None
) -> None:
    """All of them in order. Raises TargetError with the end of what the first that failed said."""
    env = {**variables(entry, manifest), **(extra or {})}
    for hook in hooks:
        folder = manifest.path.absolute().parent
        command.check(
            hook.argv, timeout=hook.timeout, reason=f"do its part for {entry.name}", env=env, cwd=folder
        )


def variables(entry: Entry, manifest: Manifest) -> dict[str, str]:
    """What a program learns of the job. A source names no password, so that there is none among them."""
    return {
        "P2V_NAME": entry.name,
        "P2V_SOURCE": entry.job.source,
        "P2V_DIRECTORY": str(entry.directory),
        "P2V_MANIFEST": str(manifest.path.absolute()),
        "P2V_GROUPS": ",".join(entry.groups),
    }


def are_done(directory: Path) -> bool:
    """Whether the programs behind a finished run have been run to their end."""
    return (directory / NOTE).exists()


def note_done(directory: Path) -> None:
    write_atomically(directory / NOTE, b"")
