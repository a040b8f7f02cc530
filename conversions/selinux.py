"""SELinux labels of the files that a conversion wrote, given by the guest's own setfiles(8).

A file that is replaced keeps its label and a new one gets its folder's, as the kernel does it; a new folder
has none. So the guest's own policy labels exactly these files, which takes a second, where relabelling
everything takes minutes. Where that cannot be done, the guest does it at its next boot: /.autorelabel.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from conversions.changes import Changes
from conversions.request import Request
from p2v.errors import GuestError
from p2v.model import ChangeKind

CONFIG = "/etc/selinux/config"
ENFORCED = re.compile(r"^\s*SELINUX\s*=\s*(?:enforcing|permissive)\b", re.MULTILINE)
POLICY = re.compile(r"^\s*SELINUXTYPE\s*=\s*([a-z][a-z0-9_-]{0,31})\s*$", re.MULTILINE)
CONTEXTS = "/etc/selinux/{policy}/contexts/files/file_contexts"
TOOLS = ("/sbin/setfiles", "/usr/sbin/setfiles")
AUTORELABEL = "/.autorelabel"
UNLABELLED = ("/boot/efi/", "/efi/")
"""FAT knows no labels."""


def label_files(changes: Changes, request: Request) -> None:
    """Label what was written, by the guest's policy; nothing where the guest has no SELinux."""
    config = changes.read_text(CONFIG)
    paths = tuple(dict.fromkeys(_written(changes)))
    if not ENFORCED.search(config) or not paths:
        return
    policy = POLICY.search(config)
    contexts = CONTEXTS.format(policy=policy[1] if policy else "targeted")
    tool = next((path for path in TOOLS if changes.guest.exists(path)), "")
    try:
        if not tool or not changes.guest.exists(contexts):
            raise GuestError("the guest has no setfiles or no policy for it")
        changes.guest.run([tool, contexts, *paths])
    except GuestError as error:
        changes.warn(f"SELinux labels are set at the first boot, which takes longer: {error.message}")
        changes.write_text(AUTORELABEL, "-F\n", "the labels of changed files are set at the next boot")


def _written(changes: Changes) -> Iterator[str]:
    written = [change for change in changes.changes if change.kind is not ChangeKind.REMOVED]
    created = {change.path for change in written if change.kind is ChangeKind.CREATED}
    for path in (change.path for change in written if not change.path.startswith(UNLABELLED)):
        folder = posixpath.dirname(path)
        # setfiles goes down into folders: only one that holds nothing of the guest's own is given to it.
        if path in created and created.issuperset(changes.guest.glob(f"{folder}/*")):
            yield folder
        yield path
