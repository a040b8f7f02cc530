"""`p2v doctor` on a machine where everything is there, and where something is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2v import doctor
from p2v.errors import TargetError
from tests.conftest import need_tools
from tests.e2e.cli import p2v


@pytest.mark.guestfs
@pytest.mark.timeout(300)
def test_a_machine_that_is_set_up_is_fit(tmp_path: Path) -> None:
    need_tools("qemu-img", "qemu-nbd", "qemu-system-x86_64")
    answer = p2v("doctor", "--json", home=tmp_path)
    assert answer.code == 0, answer.stderr + answer.stdout
    checks = {check["name"]: check for check in answer.json()}
    assert checks["libguestfs appliance"]["state"] == "ok"
    assert checks["python3: guestfs"]["state"] == "ok"
    assert checks["KVM"]["found"]
    assert {"free space", "kernel", "qemu-img", "python3: nbd"} <= set(checks)


def test_what_is_missing_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2v.command.find_tool", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    checks = (*doctor._tools(), *doctor._libraries())
    by_name = {check.name: check for check in checks}
    assert by_name["qemu-img"].state is doctor.State.MISSING
    assert by_name["qemu-img"].mend == "sudo apt install qemu-utils"
    assert by_name["virsh"].state is doctor.State.WARNING
    assert "python3-guestfs" in by_name["python3: guestfs"].mend
    with pytest.raises(TargetError, match=r"qemu-img.*guestfs"):
        doctor.require(checks)
