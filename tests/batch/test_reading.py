"""Manifests: every mistake in one go with its place, no secret repeated, nothing that a bomb can reach."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import tracemalloc
from pathlib import Path

import click
import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.batch import document
from p2v.batch.manifest import Answer, OnFailure
from p2v.batch.schema import MachineForm, ManifestForm, SettingsForm, VsphereForm, schema
from p2v.convert_cli import convert
from p2v.errors import UsageError
from p2v.job import Job
from p2v.model import Choice, ConsistencyWish, Goal, MiB, Removal
from p2v.vsphere.settings import NetworkMap
from tests.batch.manifests import manifest, mistakes, reading

TWO = """\
defaults:
  to: libvirt
  memory: 4G
  password: env:ROOT_PASSWORD
machines:
  - source: ssh://root@web01.example
  - source: ssh://root@db01.example:2222
    name: db
    memory: 512M
    to: [vmware:esx8, libvirt]
"""


def test_defaults_hold_where_a_machine_says_nothing(tmp_path: Path) -> None:
    found = manifest(tmp_path, TWO)
    web, db = found.entries
    assert (web.name, web.job.targets, web.job.memory) == ("web01.example", ("libvirt",), 4096 * MiB)
    assert (db.name, db.job.targets, db.job.memory) == ("db", ("vmware:esx8", "libvirt"), 512 * MiB)
    assert (web.host, db.host) == ("web01.example", "db01.example")
    assert web.job.password == "env:ROOT_PASSWORD"
    assert web.job.output == tmp_path / "runs"


FULL = """\
output: elsewhere
parallel: 3
limit: 200M
limit_windows: "Mon-Fri 08:00-18:00=20M"
per_host: 1
hosts:
  nas1: {parallel: 2, limit: 50M}
machines:
  - source: disk.img
    name: one
    to: libvirt
    disks: [sda]
    cpus: 2
    memory: 2048
    prove: yes
    limit: 1000000
    limit_windows: ["22:00-06:00=1G"]
    identity: key
    known_hosts: key
    accept_new_host_key: true
    password: file:key
    passphrase: prompt
    consistency: snapshot
    freeze_limit: 90
    allow_bad_sectors: on
    retry_for: 2h
    mac: new
    remove: hw-agents
    guest_identity: new
    hostname: web01-new
    run_first_boot: key
    disable_services: [smartd]
    luks_key_files: key
    drivers: .
    windows: "Sat,Sun 00:00-24:00"
    host: nas1
    groups: [web, "all"]
    needs: two
    hooks:
      before: [{run: ["true", a b], timeout: 10s}]
      after: [{run: ["true"]}]
    on_failure: retry 3
  - {source: "ssh://h", name: two, goal: capture}
  - source: ssh://g
    name: three
    to: vsphere
    vsphere: {server: "vc.example:8443", user: adm, password: "env:VC", networks: [eth0=DMZ, LAN], power_on:
    yes}
"""


def test_everything_that_can_be_said_arrives(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"")
    (tmp_path / "key").write_text("x")
    found = manifest(tmp_path, FULL)
    one, two, three = found.entries
    key = tmp_path / "key"
    assert one.job == Job(
        source=str(tmp_path / "disk.img"), targets=("libvirt",), output=tmp_path / "runs", name="one",
        disks=("sda",), cpus=2, memory=2048 * MiB, prove=True, limit="1000000",
        limit_windows=("22:00-06:00=1G",), identity=key, known_hosts=key, accept_new_host_key=True,
        allow_bad_sectors=True, retry_for="2h", mac=Choice.NEW, remove=(Removal.HW_AGENTS,),
        guest_identity=Choice.NEW, hostname="web01-new", first_boot=key, disable_services=("smartd",),
        luks_key_files=(key,), consistency=ConsistencyWish.SNAPSHOT, freeze_limit=90.0,
        password=f"file:{key}", passphrase="prompt", drivers=tmp_path / ".",
    )  # fmt: skip
    assert (one.groups, one.needs, one.host) == (("web", "all"), ("two",), "nas1")
    assert one.windows[0].days == {5, 6}
    assert one.on_failure == OnFailure(Answer.CONTINUE, 3)
    assert one.hooks.before[0].argv[1:] == ("a b",)
    assert (one.hooks.before[0].timeout, one.hooks.after[0].timeout) == (10.0, 300.0)
    assert one.passphrase_prompt == "Passphrase of the key for one: "
    assert (two.job.goal, two.job.targets) == (Goal.CAPTURE, ())
    vsphere = three.job.vsphere
    assert vsphere is not None
    assert (vsphere.server.host, vsphere.server.port, str(vsphere.server.password)) == (
        "vc.example",
        8443,
        "env:VC",
    )
    assert vsphere.placement.networks == (NetworkMap("eth0", "DMZ"), NetworkMap("", "LAN"))
    assert (found.parallel, found.limit, found.per_host) == (3, "200M", 1)
    assert found.host_limits("nas1").limit == "50M"
    assert (found.host_limits("nas1").parallel, found.host_limits("other").parallel) == (2, 1)


def test_a_manifest_can_say_what_the_command_line_can() -> None:
    """An option that is added to `p2v convert` and forgotten here fails this."""
    assert isinstance(convert, click.Command)
    names = {option.name or "" for option in convert.params}
    common = {"as_json", "quiet", "verbose", "yes", "progress", "dry_run", "output"}
    renamed = {"targets": "to", "first_boot": "run_first_boot"}
    there = set(MachineForm.model_fields)
    vsphere = {f"vsphere_{name}" for name in VsphereForm.model_fields} | {"vsphere_network"}
    assert {renamed.get(name, name) for name in names - common - vsphere} <= there
    job = {field.name for field in dataclasses.fields(Job)} - {"output"}
    assert {renamed.get(name, name) for name in job} <= there


WRONG = """\
parralel: 2
limit: fast
defaults:
  to: [libvirt, libvirrt]
  password: hunter2
  memory: 4X
machines:
  - source: ssh://root@web01
    name: no
    cpu: 4
    hooks: {before: [{run: [/nonexistent], timout: 3}]}
  - source: ssh://root:hunter2@web02
  - source: ssh://root@WEB01:22
    name: ok
    after: [okay]
  - source: missing.img
  - source: ssh://c
    disks: [sda, 3]
    cpus: 0
    on_failure: explode
    hooks: 3
    password: hunter2
  - name: a/b
  - just a string
"""


def test_every_mistake_is_found_in_one_go_with_its_place(tmp_path: Path) -> None:
    found = mistakes(tmp_path, WRONG)
    for start in (
        "1:1 'parralel' is not known here Did you mean parallel?",
        "2:8 limit: 'fast' is not a rate",
        "4:7 defaults.to: There is no target 'libvirrt' Did you mean libvirt?",
        "5:13 password is no reference",
        "6:11 defaults.memory: '4X' is not a size",
        "9:11 name should be text",
        "10:5 'cpu' is not known here Did you mean cpus?",
        "11:44 'timout' is not known here Did you mean timeout?",
        "12:13 source: A password does not belong into an address",
        "13:13 this source stands twice; the first is in line 8",
        "15:13 after: there is no machine and no group 'okay' Did you mean ok?",
        "16:13 source: there is no file",
        "18:18 disks should be text",
        "19:11 cpus should be greater than or equal to 1",
        "20:17 on_failure is one of: continue, stop, retry N",
        "21:12 hooks should be a table",
        "22:15 password is no reference",
        "23:5 source is missing",
        "24:5 machines should be a table",
    ):
        assert any(line.startswith(start) for line in found), (start, found)
    with pytest.raises(UsageError) as caught:
        reading(tmp_path, WRONG).require()
    assert "hunter2" not in str(caught.value)
    assert str(caught.value.exit_code) == "2"


def test_one_mistake_in_a_table_hides_no_other(tmp_path: Path) -> None:
    text = """\
hosts:
  nas: {paralell: 3, limit: 9x}
defaults: {to: vsphere, vsphere: {server: "vc:x", user: adm, datastor: d}}
machines:
  - source: ssh://a
    cpuz: 1
    cpus: many
    hooks: {before: 3, after: [{run: [/nonexistent]}]}
  - {source: ssh://b, to: {}}
  - {source: ssh://c, goal: capture, vsphere: {bad: 1}}
"""
    assert [found.partition(" ")[0] for found in mistakes(tmp_path, text)] == [
        "2:9", "2:29", "3:34", "3:62", "6:5", "7:11", "8:21", "8:32", "9:27", "10:48"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "password: *hunter2", "password: &hunter2 x y: z", "password: !hunter2 x", "password: 'hunter2",
        "password: @hunter2", "password: %hunter2", "password: [hunter2", "password: {a: hunter2}",
        "passwort: hunter2", "password: env hunter2", "password: env:hunter 2", "source: ssh://u:hunter2@h",
        "password: hunter2: x",
    ],
)  # fmt: skip
def test_no_message_repeats_a_password(tmp_path: Path, line: str) -> None:
    found = mistakes(tmp_path, f"machines:\n  - name: x\n    {line}\n")
    assert found
    assert "hunter2" not in " ".join(found)


@pytest.mark.parametrize(
    ("text", "cycle"),
    [
        ("a after b, b after c, c after a", "a → b → c → a"),
        ("a after a", "a → a"),
        ("a after web, b in web, b after a", "a → group web → b → a"),
        ("a in web, a after web", "a → group web → a"),
        ("a needs b, b after a", "a → b → a"),
    ],
)
def test_a_circle_is_named(tmp_path: Path, text: str, cycle: str) -> None:
    said: dict[str, list[str]] = {}
    for word in text.split(", "):
        name, verb, other = word.split()
        said.setdefault(name, []).append(f"{'groups' if verb == 'in' else verb}: {other}")
        if other != "web":
            said.setdefault(other, [])
    machines = "".join(
        f"  - {{{', '.join([f'source: ssh://{name}', *lines])}}}\n" for name, lines in said.items()
    )
    (found,) = mistakes(tmp_path, f"defaults: {{to: raw}}\nmachines:\n{machines}")
    # Where a circle begins is the machine that stands first in the file.
    assert found.partition(": ")[2] in (cycle, *_turned(cycle))


def _turned(cycle: str) -> list[str]:
    ring = cycle.split(" → ")[:-1]
    return [" → ".join((*ring[n:], *ring[:n], ring[n])) for n in range(len(ring))]


def test_names_and_groups_are_kept_apart(tmp_path: Path) -> None:
    text = "defaults: {to: raw}\nmachines:\n  - {source: 'ssh://a', groups: b}\n  - {source: 'ssh://b'}\n"
    assert mistakes(tmp_path, text) == ["4:5 b is the name of a group too"]


def test_two_names_that_differ_only_in_case_are_one(tmp_path: Path) -> None:
    text = "defaults: {to: raw}\nmachines:\n  - {source: 'ssh://a'}\n  - {source: 'ssh://b', name: A}\n"
    (found,) = mistakes(tmp_path, text)
    assert found.startswith("4:31 the name A stands twice; the first is in line 3")


def test_windows_line_ends_and_byte_order_marks_are_taken(tmp_path: Path) -> None:
    plain = manifest(tmp_path, TWO).entries
    for content in (
        TWO.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + TWO.replace("\n", "\r\n").encode(),
        TWO.encode("utf-16"),
    ):
        assert reading(tmp_path, content).require().entries == plain


def test_text_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8 text: see line 2"):
        reading(tmp_path, b"a: 1\nb: \xff\n")
    assert mistakes(tmp_path, b"a: \x00\n") == ["1:1 a character that no YAML file has Save it as plain text"]
    assert mistakes(tmp_path, b"") == ["1:1 there is nothing in it Its form: p2v batch --schema"]


def test_a_tab_is_explained(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, "machines:\n\t- source: x\n")
    assert found == "2:1 a tab stands here YAML is indented with spaces; put two for each tab"


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    text = "machines:\n  - source: ssh://a\n    to: raw\n    to: libvirt\n"
    assert mistakes(tmp_path, text) == ["4:5 'to' stands twice; the first is in line 3"]


def laughs(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    return "\n".join([*lines, f"machines: *a{depth - 1}", ""])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (laughs(12), "values, aliases filled in"),
        ("&a [*a]", "within what it stands for"),
        ("machines: &a {b: *a}", "within what it stands for"),
        ("[" * 500_000, "levels"),
        ("{a: " * 500_000, "levels"),
        ("- " * 100_000, "levels"),
        ("a: &a x\nb: [" + "*a, " * 30_000 + "]", "aliases"),
        ("a: !!python/object/apply:os.system [x]", "tags"),
        ("a: 1\n---\na: 2\n", "second document"),
    ],
    ids=["laughs", "itself", "itself in a table", "brackets", "braces", "dashes", "aliases", "tag", "two"],
)
def test_bombs_are_refused_quickly_and_in_little_memory(tmp_path: Path, text: str, words: str) -> None:
    tracemalloc.start()
    started = time.monotonic()
    (found,) = mistakes(tmp_path, text)
    seconds, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert words in found
    assert seconds < 5
    assert peak < 64 * MiB


@pytest.mark.parametrize("text", ["[" * 5000, "- " * 5000, laughs(12), "&a [*a]", "a:\n\tb: c"])
def test_without_the_parser_in_c_it_is_the_same(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = reading(tmp_path, text).mistakes
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    slow = reading(tmp_path, text).mistakes
    assert [one.mark.line for one in slow] == [one.mark.line for one in fast]
    assert reading(tmp_path, TWO).mistakes == ()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@`, \n\t<?~0\x00\ufeffé", max_size=60))
def test_no_text_is_more_than_a_mistake(text: str) -> None:
    with contextlib.suppress(document.Unreadable):
        node, _ = document.compose(text)
        node.plain()


def test_aliases_in_reason_are_fine(tmp_path: Path) -> None:
    text = (
        "defaults: {to: raw}\nhosts: &x {a: {parallel: 1}}\nmachines:\n"
        "  - &web {source: 'ssh://a', groups: web, cpus: 2}\n"
        "  - {<<: *web, source: 'ssh://b', cpus: 4}\n"
    )
    one, two = manifest(tmp_path, text).entries
    assert (one.job.cpus, two.job.cpus, two.groups) == (2, 4, ("web",))


@pytest.mark.slow
def test_ten_thousand_machines_are_checked_in_seconds(tmp_path: Path) -> None:
    lines = ["defaults: {to: libvirt}", "machines:"]
    for number in range(10_000):
        after = f"after: n{number - 1}" if number else "after: []"
        lines.append(f"  - {{source: 'ssh://h{number}', name: n{number}, groups: all, cpus: 4, {after}}}")
    started = time.monotonic()
    assert len(manifest(tmp_path, "\n".join(lines)).entries) == 10_000
    lines[2] = lines[2].replace("after: []", "after: n9999")
    (found,) = mistakes(tmp_path, "\n".join(lines))
    assert "n0 → n9999 → n9998" in found
    assert time.monotonic() - started < 25


def test_an_empty_manifest_and_one_without_a_target(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "defaults: {to: raw}\n") == ["1:1 machines is missing"]
    (found,) = mistakes(tmp_path, "machines: []\n")
    assert found.startswith("1:11 machines is empty")
    (found,) = mistakes(tmp_path, "machines: [{source: 'ssh://a'}]\n")
    assert found.startswith("1:12 it has no target")


def test_the_schema_describes_every_key() -> None:
    made = schema()
    for form in (ManifestForm, SettingsForm, VsphereForm):
        assert all(field.description for field in form.model_fields.values())
    machine = made["$defs"]["MachineForm"]
    assert machine["required"] == ["source"]
    assert machine["additionalProperties"] is False
    assert set(machine["properties"]) == set(MachineForm.model_fields)


def test_the_published_schema_takes_what_is_right_and_refuses_what_is_wrong() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    for text in (TWO, FULL):
        assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []
    wrong = {tuple(error.path) for error in validator.iter_errors(yaml.safe_load(WRONG))}
    for number, key in (
        (0, "name"),
        (0, "hooks"),
        (4, "disks"),
        (4, "cpus"),
        (4, "on_failure"),
        (4, "password"),
    ):
        assert ("machines", number, key) in wrong


def test_a_key_for_a_message_is_short_and_printable() -> None:
    assert document.shown_key("a\x1b[31m" + "b" * 100) == repr("a?[31m" + "b" * 33 + "…")
