"""The C# of the Windows script as a program that runs here: Mono, and a kernel32 over files."""

from __future__ import annotations

from pathlib import Path

from p2v.transports.windows import SOURCES
from tests.conftest import need_tools
from tests.transports.test_windows import FOLDER, table
from tests.transports.windows_source import run

MONO = Path(__file__).with_name("mono")


def build_host(folder: Path) -> Path:
    """The program with our C# in it, and kernel32 beside it."""
    need_tools("mcs", "mono", "cc")
    words = " ".join(f"public const int {name} = {value};" for name, value in table().items())
    (folder / "Table.cs").write_text(f"namespace P2V {{ public static class Table {{ {words} }} }}")
    program = folder / "Host.exe"
    sources = [folder / "Table.cs", MONO / "Host.cs", *(FOLDER / name for name in SOURCES)]
    run("mcs", "-langversion:5", "-warnaserror", f"-out:{program}", *sources)
    library = folder / "libkernel32.so"
    run("cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, MONO / "kernel32.c")
    (folder / "Host.exe.config").write_text(
        f'<configuration><dllmap dll="kernel32.dll" target="{library}"/></configuration>'
    )
    return program
