"""Which machine may start: order, groups, hosts, windows of time, and failures."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from p2v.batch.manifest import Entry, Group, HostLimits, Manifest
from p2v.batch.order_book import OrderBook
from p2v.job import Job
from p2v.transports.rate import parse_windows

MONDAY = datetime(2026, 11, 23, 12, 0)
SATURDAY = datetime(2026, 11, 28, 12, 0)


def entry(name: str, **more: object) -> Entry:
    return Entry(name, Job(f"ssh://{name}", ("raw",), Path("/runs"), name=name), 1, **more)  # type: ignore[arg-type]


def book(
    *entries: Entry,
    only: set[str] | None = None,
    finished: Callable[[Entry], bool] = lambda _entry: False,
    now: datetime = MONDAY,
    **manifest: object,
) -> OrderBook:
    whole = Manifest(Path("m.yaml"), Path("/runs"), entries, **manifest)  # type: ignore[arg-type]
    chosen = [one for one in entries if only is None or one.name in only]
    return OrderBook(whole, chosen, finished=finished, now=lambda: now)


def start_all(orders: OrderBook) -> list[Entry]:
    found = []
    while (one := orders.start()) is not None:
        found.append(one)
    return found


def names(entries: list[Entry]) -> list[str]:
    return [one.name for one in entries]


def test_after_waits_for_the_end_and_not_for_success() -> None:
    orders = book(entry("a"), entry("b", after=("a",)), entry("c"))
    first = start_all(orders)
    assert names(first) == ["a", "c"]
    orders.end(first[1], good=True)
    assert start_all(orders) == []
    orders.end(first[0], good=False)
    assert names(start_all(orders)) == ["b"]
    assert list(orders.hopeless()) == []


def test_needs_takes_all_that_hang_on_a_failure_with_it() -> None:
    orders = book(entry("a"), entry("b", needs=("a",)), entry("c", needs=("b",)), entry("d", after=("c",)))
    (a,) = start_all(orders)
    orders.end(a, good=False)
    assert [(one.name, reason) for one, reason in orders.hopeless()] == [("b", "a"), ("c", "b")]
    assert names(start_all(orders)) == ["d"]


def test_a_group_has_ended_when_all_of_it_has() -> None:
    orders = book(
        entry("a", groups=("web",)),
        entry("b", groups=("web",)),
        entry("c", after=("web",)),
        entry("d", needs=("web",)),
    )
    a, b = start_all(orders)
    orders.end(a, good=False)
    assert [(one.name, reason) for one, reason in orders.hopeless()] == [("d", "web")]
    assert start_all(orders) == []
    orders.end(b, good=True)
    assert names(start_all(orders)) == ["c"]


def test_a_host_gives_no_more_jobs_than_it_may() -> None:
    hosts = (HostLimits("nas", 2),)
    orders = book(
        entry("a", host="nas"), entry("b", host="nas"), entry("c", host="nas"), entry("d", host="x"),
        entry("e", host="x"), entry("f"), entry("g"), per_host=1, hosts=hosts,
    )  # fmt: skip
    started = start_all(orders)
    assert names(started) == ["a", "b", "d", "f", "g"]
    orders.end(started[0], good=True)
    assert names(start_all(orders)) == ["c"]


def test_a_window_of_time_keeps_a_job_waiting() -> None:
    weekend = parse_windows(["Sat,Sun 00:00-24:00=1"])
    late = entry("a", windows=weekend)
    assert names(start_all(book(late, entry("b")))) == ["b"]
    assert names(start_all(book(late, entry("b"), now=SATURDAY))) == ["a", "b"]


def test_what_is_not_selected_counts_by_what_an_earlier_batch_made() -> None:
    a, b, c = entry("a"), entry("b", after=("a",)), entry("c", needs=("a",))
    orders = book(a, b, c, only={"b", "c"})
    assert [one.name for one, _ in orders.hopeless()] == ["c"]
    assert names(start_all(orders)) == ["b"]
    assert names(start_all(book(a, b, c, only={"b", "c"}, finished=lambda _entry: True))) == ["b", "c"]


def test_groups_are_in_the_order_of_the_file() -> None:
    whole = Manifest(Path("m"), Path(), (entry("a", groups=("x", "y")), entry("b", groups=("y",))))
    assert whole.groups() == (Group("x", ("a",)), Group("y", ("a", "b")))
