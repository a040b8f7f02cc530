"""Drivers for an initramfs without making it anew: a small archive behind those that are there.

The kernel unpacks one archive after the other, a later file over an earlier one (Linux,
Documentation/driver-api/early-userspace/buffer-format.rst). So what is missing is added behind the end: the
modules, plain, and the indexes of kmod with the modules in them, from which udev loads what a device asks
for. Nothing that was there goes away, so the old hardware still boots, and nothing of the guest is run. It
takes seconds where the guest's own tool takes a minute.

It is only done where it is sure to work: udev is in the initramfs, its indexes are those of kmod, and the
modules need neither firmware nor others that are to be loaded before them. Else the guest's own tool works.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conversions import cpio
from conversions.changes import Changes
from conversions.initramfs import End, Initramfs, Packed, module_name
from conversions.kernels import Kernel, Loadable
from conversions.kmod_index import Entry, read_index, write_index
from conversions.unpack import LZ4_BLOCK, Compression, lz4_block, unpack_whole
from p2v.errors import GuestError
from p2v.model import MiB

MODULE_LIMIT = 32 * MiB
INDEX_LIMIT = 32 * MiB
SUFFIXES = {".xz": Compression.XZ, ".zst": Compression.ZSTD, ".gz": Compression.GZIP}
ELF = b"\x7fELF"
FIRMWARE = re.compile(rb"\0firmware=[^\0]")
MODULES_LIST = "conf/modules"
"""initramfs-tools loads what this file of the initramfs lists, whatever udev has found."""
KNOWN = frozenset({"initramfs-tools", "dracut", "mkinitcpio"})


class Unsure(GuestError):
    """The initramfs cannot be supplemented safely; the message says why."""


@dataclass(frozen=True, slots=True)
class _Module:
    """A module on its way: its entry in the guest's modules.dep, and its content, plain."""

    entry: Loadable
    content: bytes

    @property
    def path(self) -> str:
        """Below the folder of the modules, without the suffix of its compression."""
        return _plain_path(self.entry.path)


def supplement(
    changes: Changes, kernel: Kernel, data: bytes, names: Sequence[str], settings: Mapping[str, bytes]
) -> bytes:
    """The initramfs `data` of `kernel` with the modules `names` added, and files of `settings` replaced.

    `names` are modules with all that they need. Raises Unsure where that may not work.
    """
    contents = kernel.contents
    if contents is None:
        raise Unsure("it could not be read")
    files = dict(settings)
    folders: tuple[str, ...] = ()
    if names:
        base = _base(contents, kernel)
        added = _modules(changes, kernel, names)
        files |= {f"{base}/{module.path}": module.content for module in added}
        folders = cpio.parents(files, below=base)
        files |= _indexes(changes, kernel, contents, base, added)
        files |= _list(contents, names)
    return data + fitting(cpio.archive(files, folders), contents.end, len(data))


def supports_modules(kernel: Kernel) -> bool:
    """Whether modules can be added to the initramfs of `kernel`, as far as it shows from outside."""
    try:
        return kernel.contents is not None and bool(_base(kernel.contents, kernel))
    except Unsure:
        return False


def _base(contents: Initramfs, kernel: Kernel) -> str:
    """The folder of the modules inside the initramfs, once it is clear that udev loads from there."""
    if "udev" not in contents.marks or not KNOWN & contents.marks:
        raise Unsure("nothing is known to load modules in it")
    index = contents.index(kernel.version, "modules.dep.bin")
    if index is None or contents.index(kernel.version, "modules.alias.bin") is None:
        raise Unsure("it has no indexes of modules")
    return index.path.rsplit("/", 1)[0]


def _modules(changes: Changes, kernel: Kernel, names: Sequence[str]) -> list[_Module]:
    by_name = {module.name: module for module in kernel.loadable}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise Unsure(f"the guest has no module {unknown[0]}")
    softly = _with_soft_dependencies(changes, kernel)
    found: list[_Module] = []
    for name in names:
        module = _Module(by_name[name], _content(changes, kernel, by_name[name].path))
        if FIRMWARE.search(module.content) or name in softly:
            raise Unsure(f"{name} needs more than modules")
        found.append(module)
    return found


def _content(changes: Changes, kernel: Kernel, path: str) -> bytes:
    """A module, unpacked: not every kmod of an initramfs reads what its kernel's modules are packed with."""
    if path.startswith("/") or ".." in path.split("/"):
        raise Unsure(f"{path} is not in the folder of the modules")
    data = changes.guest.read(f"/lib/modules/{kernel.version}/{path}", limit=MODULE_LIMIT)
    packed = next((kind for suffix, kind in SUFFIXES.items() if path.endswith(suffix)), None)
    plain = unpack_whole(data, packed, limit=MODULE_LIMIT) if packed else data
    if not plain.startswith(ELF):
        raise Unsure(f"{path} is no kernel module")
    return plain


def _with_soft_dependencies(changes: Changes, kernel: Kernel) -> frozenset[str]:
    text = changes.read_text(f"/lib/modules/{kernel.version}/modules.softdep")
    lines = (line.split() for line in text.splitlines())
    return frozenset(module_name(words[1]) for words in lines if len(words) > 2 and words[0] == "softdep")


def _indexes(
    changes: Changes, kernel: Kernel, contents: Initramfs, base: str, added: Sequence[_Module]
) -> dict[str, bytes]:
    """The indexes of the initramfs with the new modules in them, for kmod and for busybox."""
    present = _paths(contents, kernel, base)
    present |= {module.entry.name: module.path for module in added}
    depends = [Entry(module.entry.name, _line(kernel, module, present)) for module in added]
    aliases = _aliases(changes, kernel, frozenset(module.entry.name for module in added))
    texts = {
        "modules.dep": [entry.value for entry in depends],
        "modules.alias": [f"alias {entry.key} {entry.value}" for entry in aliases],
    }
    made: dict[str, bytes] = {}
    for name, entries in (("modules.dep.bin", depends), ("modules.alias.bin", aliases)):
        old = contents.index(kernel.version, name)
        made[f"{base}/{name}"] = write_index((*read_index(old.content if old else b""), *entries))
    for name, lines in texts.items():
        text = contents.index(kernel.version, name)
        if text is not None:
            made[text.path] = _with_lines(text.content, lines)
    return made


def _paths(contents: Initramfs, kernel: Kernel, base: str) -> dict[str, str]:
    """Where the initramfs has its modules, relative to its folder of modules."""
    found = (module for module in contents.all_modules if module.version == kernel.version)
    return {module.name: module.path.removeprefix(f"{base}/") for module in found}


def _line(kernel: Kernel, module: _Module, present: Mapping[str, str]) -> str:
    """A line of modules.dep(5), in which every module has the path that it has in the initramfs."""
    needs = [present[name] for name in module.entry.needs if name in present]
    if len(needs) + len(kernel.built_in & set(module.entry.needs)) < len(module.entry.needs):
        raise Unsure(f"{module.entry.name} needs modules that are not there")
    return f"{module.path}:" + "".join(f" {path}" for path in needs)


def _aliases(changes: Changes, kernel: Kernel, names: frozenset[str]) -> list[Entry]:
    path = f"/lib/modules/{kernel.version}/modules.alias.bin"
    known = read_index(changes.guest.read(path, limit=INDEX_LIMIT))
    return [entry for entry in known if entry.value in names]


def _with_lines(text: bytes, lines: Sequence[str]) -> bytes:
    gap = b"" if not text or text.endswith(b"\n") else b"\n"
    return text + gap + "".join(f"{line}\n" for line in lines).encode()


def _list(contents: Initramfs, names: Sequence[str]) -> dict[str, bytes]:
    if "initramfs-tools" not in contents.marks:
        return {}
    old = next((file for file in contents.files if file.path == MODULES_LIST), Packed(MODULES_LIST, b""))
    return {MODULES_LIST: _with_lines(old.content, names)}


def _plain_path(path: str) -> str:
    return next((path.removesuffix(suffix) for suffix in SUFFIXES if path.endswith(suffix)), path)


def fitting(addition: bytes, end: End, size: int) -> bytes:
    """What stands behind the end so that the kernel finds `addition`: archives begin at multiples of four."""
    if not end.clean:
        raise Unsure("something that is no archive follows its end")
    if end.compression is Compression.LZ4:
        return _lz4_blocks(bytes(-end.unpacked % 4) + addition, end, size)
    return bytes(-size % 4) + addition


def _lz4_blocks(content: bytes, end: End, size: int) -> bytes:
    """The kernel takes what follows LZ4 data for more of it, so the addition is packed the same way."""
    if end.position != size:
        raise Unsure("something follows its LZ4 data")
    return b"".join(
        lz4_block(content[start : start + LZ4_BLOCK]) for start in range(0, len(content), LZ4_BLOCK)
    )
