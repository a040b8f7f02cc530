"""Whether a process that holds a unit still lives."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.licensing import owner
from p2v.licensing.owner import is_alive, this_process


def test_this_process_lives_and_is_the_one_that_ps_knows() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert me.started > 0
    assert is_alive(me)


def test_a_fork_is_another_process() -> None:
    parent = this_process()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if this_process() != parent else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_killed_child_is_dead_even_while_nobody_has_collected_it() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    stat = owner._stat(pid)
    assert stat is not None
    child = replace(this_process(), pid=pid, started=stat.started)
    assert is_alive(child)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{pid}/stat").exists(), "the zombie must still be there for this test to mean anything"
    assert not is_alive(child)
    os.waitpid(pid, 0)
    assert not is_alive(child)


def test_a_reused_process_id_and_an_earlier_boot_are_somebody_else() -> None:
    me = this_process()
    assert not is_alive(replace(me, started=me.started - 1))
    assert not is_alive(replace(me, boot="11111111-2222-3333-4444-555555555555"))


def test_another_container_cannot_be_seen_and_counts_as_alive() -> None:
    assert is_alive(replace(this_process(), namespace="pid:[1]", pid=2**22 - 1))


@pytest.mark.parametrize("pid", [2**22 + 5, 2**70])
def test_numbers_that_are_no_process_are_dead(pid: int) -> None:
    assert not is_alive(replace(this_process(), pid=pid, started=1))


def test_a_program_name_with_brackets_does_not_shift_the_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "77").mkdir()
    numbers = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "77" / "stat").write_text(f"77 (evil) Z 1 (x) S {numbers}\n")
    monkeypatch.setattr(owner, "PROC", tmp_path)
    stat = owner._stat(77)
    assert stat is not None
    assert (stat.state, stat.started) == ("S", 22)
