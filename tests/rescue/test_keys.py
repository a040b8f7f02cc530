"""Who may log in: what ssh-keygen wrote, and what must be refused before it is built in."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2v import command
from p2v.errors import UsageError
from p2v.rescue.keys import read_keys
from tests.conftest import need_tools

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


def keygen(folder: Path, name: str, *words: str) -> Path:
    need_tools("ssh-keygen")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    argv = ["ssh-keygen", "-q", "-N", "", "-C", "someone@desk", *words, "-f", str(path)]
    command.check(argv, timeout=60, reason="make a key")
    return path


@pytest.mark.tools
@pytest.mark.parametrize("words", [("-t", "ed25519"), ("-t", "ecdsa"), ("-t", "rsa", "-b", "2048")])
def test_keys_of_every_kind_have_the_fingerprint_of_ssh_keygen(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    path = keygen(tmp_path, "key", *words)
    (key,) = read_keys([path.with_suffix(".pub")], home=tmp_path)
    said = command.check(["ssh-keygen", "-l", "-f", path], timeout=30, reason="say its fingerprint")
    assert key.fingerprint == said.split()[1]
    assert key.comment == "someone@desk"
    assert key.line == path.with_suffix(".pub").read_text().strip()


@pytest.mark.tools
def test_without_a_name_the_users_own_keys_are_taken(tmp_path: Path) -> None:
    keygen(tmp_path / ".ssh", "id_ed25519", "-t", "ed25519")
    keygen(tmp_path / ".ssh", "other", "-t", "ed25519")
    (key,) = read_keys([], home=tmp_path)
    assert key.line == (tmp_path / ".ssh/id_ed25519.pub").read_text().strip()


@pytest.mark.tools
def test_a_private_key_is_never_built_in(tmp_path: Path) -> None:
    path = keygen(tmp_path, "key", "-t", "ed25519")
    with pytest.raises(UsageError, match="private key") as caught:
        read_keys([path], home=tmp_path)
    assert caught.value.hint.endswith("key.pub")
    middle = path.read_text().splitlines()[1]
    assert middle not in str(caught.value)


def test_nobody_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nobody could log in"):
        read_keys([], home=tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "ssh-ed25519\n",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0\n",  # cut off
        f"ssh-rsa {ED25519.split()[1]}\n",  # says it is of another kind
        f"ssh-ed25519 {ED25519.split()[1][:-4]}%%%%\n",
        f'command="reboot" {ED25519}\n',
        "ssh-dss AAAAB3NzaC1kc3MAAACBAP\n",
        f"{ED25519} name\x1b[2J\n",
        "hello\n",
    ],
)
def test_what_is_no_whole_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_keys([path], home=tmp_path)


def test_a_file_of_several_keys_and_the_same_twice(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f"# ours\n\n{ED25519} one desk\n{ED25519} one desk\n")
    (key,) = read_keys([path, path], home=tmp_path)
    assert (key.line, key.comment) == (f"{ED25519} one desk", "one desk")
    with pytest.raises(UsageError, match="Cannot read"):
        read_keys([tmp_path / "missing.pub"], home=tmp_path)
