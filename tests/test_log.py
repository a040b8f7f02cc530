"""The log of a run: lines a program can read, without a secret in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from p2v.log import MESSAGE_LIMIT, Redactor, open_log, shown


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_message_is_one_json_line_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for message in ("first", "second\nwith a break and \x1b[31m"):
        with open_log(path, Redactor()) as log:
            log.warning(message)
    first, second = lines(path)
    assert (first["level"], first["message"]) == ("warning", "first")
    assert first["time"].endswith("+00:00")
    assert second["message"] == "second\nwith a break and \x1b[31m"
    assert "\x1b" not in path.read_text()


@pytest.mark.parametrize("form", ["{0}", "ssh://root:p%40ss%2Fw%22%C3%B6rd@host", "{0!r}", "argv = ['{0}']"])
def test_a_registered_secret_is_taken_out_in_every_form(form: str) -> None:
    redactor = Redactor()
    redactor.add('p@ss/w"örd')
    said = redactor.clean(form.format('p@ss/w"örd'))
    assert "[removed]" in said
    assert "p@ss" not in said
    assert "p%40ss" not in said


def test_a_secret_inside_another_leaves_nothing_of_the_longer_one() -> None:
    redactor = Redactor()
    redactor.add("hunter")
    redactor.add("hunter-2000")
    redactor.add("")
    assert redactor.clean("the word is hunter-2000") == "the word is [removed]"


def test_secrets_in_tracebacks_and_arguments_are_taken_out(tmp_path: Path) -> None:
    redactor = Redactor()
    redactor.add("s3cret")
    with open_log(tmp_path / "log.jsonl", redactor) as log:
        try:
            raise ValueError("login with s3cret failed")
        except ValueError:
            log.exception("could not use %s", "s3cret")
    text = (tmp_path / "log.jsonl").read_text()
    assert "s3cret" not in text
    assert "Traceback" in text


@pytest.mark.parametrize(
    "style",
    [serialization.PrivateFormat.OpenSSH, serialization.PrivateFormat.PKCS8],
)
@pytest.mark.parametrize("whole", [True, False])
def test_private_keys_are_taken_out_whole_or_cut(style: serialization.PrivateFormat, whole: bool) -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())):
        pem = key.private_bytes(serialization.Encoding.PEM, style, serialization.NoEncryption()).decode()
        said = Redactor().clean(f"read: {pem if whole else pem[:-40]}")
        body = pem.splitlines()[1]
        assert body not in said
        assert said.startswith("read: [removed]")


def test_a_key_in_the_format_of_putty_is_taken_out() -> None:
    text = "PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\nAAAAIsecret\nPrivate-MAC: 0a1b\nafter"
    assert Redactor().clean(f"before {text}") == "before [removed]\nafter"


def test_a_source_cannot_fill_the_disk_through_one_message(tmp_path: Path) -> None:
    redactor = Redactor()
    redactor.add("s3cret")
    with open_log(tmp_path / "log.jsonl", redactor) as log:
        log.info("x" * (MESSAGE_LIMIT - 3) + "s3cret" + "x" * 10_000_000)
    (line,) = lines(tmp_path / "log.jsonl")
    assert len(line["message"]) == MESSAGE_LIMIT
    assert "s3c" not in line["message"]


def test_a_full_disk_does_not_end_the_run_through_its_log(capfd: pytest.CaptureFixture[str]) -> None:
    with open_log(Path("/dev/full"), Redactor()) as log:
        log.info("nothing of this can be written")
    assert capfd.readouterr().err == ""


def test_names_of_machines_are_shown_printable_and_short() -> None:
    assert shown("web\x1b[2J\n01") == "web?[2J?01"
    assert len(shown("x" * 5000)) == 80
