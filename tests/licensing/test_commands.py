"""`p2v license …` as a person and a program use it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2v import command, licenses
from p2v.cli import cli, run_command
from p2v.errors import ExitCode
from p2v.house import House
from p2v.licensing import vendor
from p2v.licensing.ledger import open_ledger
from p2v.licensing.tiers import Tier
from p2v.run import create_run
from p2v.ui import UI, ProgressStyle
from tests.licensing.vendor import Vendor, trusting
from tests.plans import make_plan, make_receipt

VENDOR = Vendor()
TODAY = datetime.now(UTC).date()


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    stdout: str
    stderr: str


def p2v(*arguments: str | Path) -> Answer:
    """A command in this process, with the exit code that the program would have."""
    out, err = io.StringIO(), io.StringIO()
    result = None

    def invoke() -> None:
        nonlocal result
        result = CliRunner().invoke(cli, [str(word) for word in arguments], standalone_mode=False)
        if result.exception:
            raise result.exception

    code = run_command(invoke, UI(style=ProgressStyle.LINES, stdout=out, stderr=err))
    assert result is not None
    return Answer(code, result.stdout, result.stderr + err.getvalue())


def done(*arguments: str | Path) -> str:
    answer = p2v(*arguments)
    assert answer.code == 0, answer.stderr
    return answer.stdout


def refused(code: ExitCode, *arguments: str | Path) -> str:
    """The message of a command that must fail; nothing on standard output, no traceback."""
    answer = p2v(*arguments)
    assert answer.code == code, answer.stderr
    assert answer.stdout == ""
    assert "error: " in answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stderr


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendor, "VENDOR_KEYS", VENDOR.trusted)


def spend(home: Path, *machines: str) -> None:
    with open_ledger(home) as ledger:
        for machine in machines:
            ledger.reserve(run=f"run of {machine}", machine=machine, title=machine)
            ledger.commit(f"run of {machine}")


@pytest.mark.usefixtures("trust")
def test_buying_and_using_up(own_home: Path, tmp_path: Path) -> None:
    file = VENDOR.file(tmp_path, VENDOR.license(first=TODAY, last=TODAY + timedelta(days=60), total=2))
    assert "desktop-25/1" in done("license", "verify", file)
    assert json.loads(done("license", "show", "--json"))["left"] == 5
    assert "desktop-25/1 is installed" in done("license", "install", file)
    assert "installed already; nothing was changed" in done("license", "install", file)
    assert json.loads(done("license", "install", file, "--json"))["again"] is True
    spend(own_home, "web01", "web02", "=cmd|'/c calc'!A1")
    status = json.loads(done("license", "show", "--json"))
    assert (status["total"], status["used"], status["left"]) == (7, 3, 4)
    assert status["warnings"] == ["4 conversions are left of all licenses together"]
    text = done("license", "show")
    assert "4 left: 3 used, 0 in progress" in text
    assert "warning: 4 conversions are left" in text
    assert "Example Company" in text


def test_history_as_text_csv_and_json(own_home: Path) -> None:
    spend(own_home, "web01", '=1+1,"quoted"')
    text = done("license", "history")
    assert "committed  1      evaluation  web01" in text
    rows = list(csv.DictReader(io.StringIO(done("license", "history", "--csv"))))
    assert [row["event"] for row in rows] == ["installed", "committed", "committed"]
    assert (rows[1]["run"], rows[1]["units"], rows[1]["machine"]) == ("run of web01", "1", "web01")
    # A host name must not become a formula of a spreadsheet.
    assert rows[2]["title"] == '\'=1+1,"quoted"'
    lines = json.loads(done("license", "history", "--json"))
    assert [line["event"] for line in lines] == ["installed", "committed", "committed"]
    assert lines[2]["title"] == '=1+1,"quoted"'
    assert all(lines[1][name] for name in ("who", "began", "ended", "reason", "machine", "license"))
    refused(ExitCode.USAGE, "license", "history", "--csv", "--json")


def test_bad_files_cost_nothing_and_say_why(own_home: Path, tmp_path: Path) -> None:
    file = VENDOR.file(tmp_path, VENDOR.license())
    assert "does not trust" in refused(ExitCode.LICENSE, "license", "install", file)
    assert "does not trust" in refused(ExitCode.LICENSE, "license", "verify", file)
    refused(ExitCode.USAGE, "license", "install", tmp_path / "missing")
    refused(ExitCode.USAGE, "license", "install", tmp_path)
    assert [line["event"] for line in json.loads(done("license", "history", "--json"))] == ["installed"]


def test_verifying_and_mending(own_home: Path, tmp_path: Path) -> None:
    assert "whole and sealed: 1 entries" in done("license", "verify")
    assert done("license", "mend") == "nothing to mend\n"
    spend(own_home, "web01")
    backup = (own_home / "ledger.sqlite3").read_bytes()
    spend(own_home, "web02")
    (own_home / "ledger.sqlite3").write_bytes(backup)
    for words in (("show",), ("verify",), ("history",)):
        assert "p2v license mend" in refused(ExitCode.LICENSE, "license", *words)
    # Nobody is there to say yes.
    assert "--yes" in refused(ExitCode.USAGE, "license", "mend")
    assert "is an old copy" in done("license", "mend", "--yes")
    assert json.loads(done("license", "mend", "--yes", "--json")) == []
    assert json.loads(done("license", "show", "--json"))["used"] == 2
    assert json.loads(done("license", "verify", "--json"))["ledger"]["entries"] == 4


def test_a_broken_ledger_never_hides_finished_runs(own_home: Path, tmp_path: Path) -> None:
    plan = make_plan()
    with create_run(tmp_path, plan.name, plan, job={}) as run:
        run.write_receipt(make_receipt(run.id))
    spend(own_home, "web01")
    (own_home / "ledger.sqlite3").write_bytes(b"nothing")
    refused(ExitCode.LICENSE, "license", "show")
    assert plan.name in done("runs", "--output", tmp_path)
    assert plan.name in done("show", tmp_path / plan.name)


def receipt_of(folder: Path, name: str, run: str) -> None:
    """A finished run whose receipt has a unit for the run id given."""
    plan = replace(make_plan(), name=name)
    with create_run(folder, name, plan, job={}) as made:
        made.write_receipt(replace(make_receipt(run), plan=plan))


def test_receipts_know_what_an_old_ledger_has_forgotten(own_home: Path, tmp_path: Path) -> None:
    spend(own_home, "web01", "web02")
    receipt_of(tmp_path, "web01", "run of web01")
    assert "1 with a unit" in done("license", "verify", "--runs", tmp_path)
    receipt_of(tmp_path, "web02", "run of web02")
    receipt_of(tmp_path, "web03", "run of web03")
    message = refused(ExitCode.LICENSE, "license", "verify", "--runs", tmp_path)
    assert "receipts of 1 runs" in message
    assert "web03" in message
    refused(ExitCode.USAGE, "license", "verify", "--runs", tmp_path / "missing")


def test_a_vendor_makes_a_key_and_issues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, file = tmp_path / "vendor", tmp_path / "license"
    (tmp_path / "pass").write_text("correct horse\n")
    made = json.loads(
        done("license", "keygen", "--output", key, "--passphrase-file", tmp_path / "pass", "--json")
    )
    sale = ("license", "issue", "--key", key, "--customer", "C", "--tier", "desktop-25", "--output", file)
    assert "--passphrase-file" in refused(ExitCode.USAGE, *sale)
    refused(ExitCode.USAGE, *sale, "--passphrase-env", "NOT_THERE")
    monkeypatch.setenv("VENDOR_PASS", "wrong")
    assert "wrong" not in refused(ExitCode.USAGE, *sale, "--passphrase-env", "VENDOR_PASS").replace(
        "passphrase is wrong", ""
    )
    refused(ExitCode.USAGE, *sale, "--days", "3", "--not-after", "2030-01-01")
    assert not file.exists()
    monkeypatch.setenv("VENDOR_PASS", "correct horse")
    assert "desktop-25/1 for C" in done(*sale, "--passphrase-env", "VENDOR_PASS", "--days", "3")
    monkeypatch.setattr(vendor, "VENDOR_KEYS", (vendor.vendor_key(made["public"]),))
    license = json.loads(done("license", "verify", file, "--json"))
    assert (license["key"], license["not_after"]) == (made["id"], str(TODAY + timedelta(days=3)))
    done("license", "install", file)


def test_an_unencrypted_key_is_pointed_out(tmp_path: Path) -> None:
    answer = p2v("license", "keygen", "--output", tmp_path / "vendor")
    assert answer.code == 0
    assert "is not encrypted" in answer.stderr
    assert 'vendor_key("' in answer.stdout
    assert "PRIVATE KEY" not in answer.stdout + answer.stderr
    refused(ExitCode.USAGE, "license", "keygen", "--output", tmp_path / "vendor")
    refused(ExitCode.USAGE, "license", "issue", "--key", tmp_path / "vendor", "--customer", "C", "--tier",
            "evaluation", "--output", tmp_path / "x")  # fmt: skip


@pytest.mark.slow
def test_a_program_that_trusts_a_test_key_is_another_program(own_home: Path, tmp_path: Path) -> None:
    """The way for other tests: `trusting` in a child process; the product itself never does."""
    file = VENDOR.file(tmp_path, VENDOR.license(Tier.SITE, first=TODAY))
    environment = {**os.environ, "P2V_HOME": str(own_home)}
    arguments: Sequence[str | Path] = ("license", "install", file, "--json")
    result = command.run(trusting(VENDOR.key.text, *arguments), timeout=60, env=environment)
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["grant"]["left"] is None
    assert "cannot use it" in refused(ExitCode.LICENSE, "license", "show")


@pytest.fixture
def house(own_home: Path) -> House:
    return House(UI(style=ProgressStyle.LINES, stderr=io.StringIO()), own_home)


def test_warnings_are_said_after_a_conversion_and_never_spoil_it(own_home: Path, house: House) -> None:
    spend(own_home, "web01")
    licenses.warn(house)
    assert isinstance(house.ui.stderr, io.StringIO)
    assert "warning: 4 conversions are left" in house.ui.stderr.getvalue()
    shutil.rmtree(own_home)
    licenses.warn(house)
