"""Which of the waiting requests starts next."""

from conjoin.torch.generation.engine.job import Job, Priority
from conjoin.torch.generation.engine.schedule import AGEING, Waiting


def job(
    number: int, *, work: float = 1.0, client: str = "", priority: Priority = "interactive", at: float = 0.0
) -> Job:
    made = Job({"number": number}, None, client=client, priority=priority)
    made.work, made.arrived = work, at
    return made


def started(waiting: Waiting) -> list[int]:
    order: list[int] = []
    while (first := waiting.first()) is not None:
        waiting.take(first)
        order.append(first.inputs["number"])
    assert len(waiting) == 0
    return order


def added(*jobs: Job) -> Waiting:
    waiting = Waiting()
    for each in jobs:
        waiting.add(each, each.work)
    return waiting


def test_equal_requests_start_as_they_came() -> None:
    assert started(added(*(job(number, at=number) for number in range(5)))) == [0, 1, 2, 3, 4]


def test_little_work_goes_first() -> None:
    assert started(added(job(0, work=9), job(1, work=1), job(2, work=4))) == [1, 2, 0]


def test_a_long_request_is_not_overtaken_for_ever() -> None:
    long = job(0, work=10, at=0)
    late = [job(number, work=1, at=AGEING * 9 * number / 5) for number in range(1, 10)]
    order = started(added(long, *late))
    assert order.index(0) == 4 or order.index(0) == 5


def test_clients_share_the_work() -> None:
    greedy = [job(number, client="a", at=number / 100) for number in range(20)]
    modest = [job(100 + number, client="b", at=1 + number / 100) for number in range(3)]
    order = started(added(*greedy, *modest))
    assert {100, 101, 102} <= set(order[:7])


def test_a_client_that_was_away_has_saved_nothing() -> None:
    waiting = added(*(job(number, client="a", at=number) for number in range(20)))
    for _ in range(10):
        waiting.take(waiting.first())  # pyright: ignore[reportArgumentType]
    for number in range(5):
        newcomer = job(100 + number, client="b", at=50 + number)
        waiting.add(newcomer, newcomer.work)
    order = started(waiting)[:6]
    assert 2 <= sum(number >= 100 for number in order) <= 4


def test_a_newcomer_has_no_claim_where_nobody_waited_before_it() -> None:
    """One client was served for an hour without a queue: requests that start at once are work, too."""
    waiting = Waiting()
    for number in range(1000):
        alone = job(number, client="a", at=number)
        waiting.add(alone, 1.0)
        waiting.take(alone)
    for number in range(20):
        for client in ("b", "a"):
            waiting.add(job(number, client=client, at=2000 + number), 1.0)
    clients: list[str] = []
    for _ in range(20):
        first = waiting.first()
        assert first is not None
        waiting.take(first)
        clients.append(first.client)
    assert 8 <= clients.count("a") <= 12


def test_a_class_has_no_claim_where_nobody_waited_before_it() -> None:
    waiting = Waiting()
    for number in range(1000):
        alone = job(number, at=number)
        waiting.add(alone, 1.0)
        waiting.take(alone)
    for number in range(200):
        waiting.add(job(number, priority="bulk", at=2000 + number), 1.0)
        waiting.add(job(1000 + number, at=2000 + number), 1.0)
    taken: list[int] = []
    for _ in range(50):
        first = waiting.first()
        assert first is not None
        waiting.take(first)
        taken.append(first.inputs["number"])
    assert 3 <= sum(number < 1000 for number in taken) <= 8


def test_clients_that_came_once_are_forgotten() -> None:
    """A server without keys knows clients by their addresses."""
    waiting = Waiting()
    for number in range(5000):
        once = job(number, client=f"address {number}", at=number)
        waiting.add(once, 1.0)
        waiting.take(once)
    assert len(waiting._classes["interactive"].clients) < 100


def test_bulk_gets_a_tenth_of_the_work_beside_others() -> None:
    bulk = [job(number, priority="bulk", at=0) for number in range(50)]
    people = [job(1000 + number, at=1) for number in range(50)]
    order = started(added(*bulk, *people))[:50]
    assert 3 <= sum(number < 1000 for number in order) <= 8


def test_cancelled_requests_leave_the_queue() -> None:
    jobs = [job(number, at=number) for number in range(4)]
    waiting = added(*jobs)
    jobs[0].cancelled = jobs[2].cancelled = RuntimeError()
    assert {gone.inputs["number"] for gone in waiting.cancelled()} == {0, 2}
    assert started(waiting) == [1, 3]


def test_the_next_requests_begin_with_the_first() -> None:
    waiting = added(job(0, priority="bulk"), job(1, at=3, work=5), job(2, at=4, work=1))
    upcoming = waiting.upcoming(2)
    assert upcoming[0] is waiting.first()
    assert len(upcoming) == 2
