import _thread
import signal
import threading
from threading import Event

import pytest

from steadydepth.files.prefetch import Feed, for_each_in_threads, read_ahead

PATIENCE = 20


def test_items_come_in_order_and_at_most_two_ahead():
    made, asked = [], []

    def numbers():
        for number in range(9):
            made.append(number)
            yield number

    ahead = read_ahead(numbers())
    assert made == []
    for number in ahead:
        asked.append(number)
        assert len(made) <= len(asked) + 2
    assert asked == list(range(9))
    assert list(read_ahead([])) == []


def test_the_next_item_is_made_while_the_caller_is_at_work():
    is_made = threading.Event()

    def items():
        yield "first"
        is_made.set()
        yield "second"

    ahead = read_ahead(items())
    assert next(ahead) == "first"
    assert is_made.wait(PATIENCE)  # without being asked for
    assert list(ahead) == ["second"]


def test_an_error_comes_where_its_item_would_have():
    def items():
        yield 1
        yield 2
        raise ValueError("the file ends here")

    got = []
    with pytest.raises(ValueError, match="the file ends here"):
        got.extend(read_ahead(items()))
    ahead = read_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="the file ends here"):
        next(ahead)


def test_closed_early_the_source_is_closed_and_the_thread_ends():
    closed, before = [], threading.active_count()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    ahead = read_ahead(endless())
    next(ahead)
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before
    del ahead
    assert closed == [True]


def test_every_item_is_done_and_four_are_held():
    taken, done, lock = [], [], threading.Lock()

    def items():
        for number in range(15):
            taken.append(number)
            assert len(taken) - len(done) <= 5
            yield number

    def work(number: int) -> None:
        with lock:
            done.append(number)

    for_each_in_threads(work, items())
    assert sorted(done) == list(range(15))


def test_four_work_at_once():
    together, places = threading.Barrier(4, timeout=PATIENCE), []
    for_each_in_threads(lambda _: places.append(together.wait()), range(8))
    assert sorted(places) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_first_error_ends_the_work():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    def work(number: int) -> None:
        if number == 3:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        for_each_in_threads(work, items())
    assert len(taken) < 10


def test_what_is_forgotten_may_be_collected_in_its_own_thread():
    go, ended, found = Event(), Event(), []

    def source():
        yield 1
        go.wait(10)
        try:
            items.close()
        except RuntimeError as error:
            found.append(error)
        ended.set()
        yield 2

    items = read_ahead(source())
    assert next(items) == 1
    go.set()
    assert ended.wait(10)
    assert found == []


def test_ctrl_c_is_noticed_while_a_source_is_silent():
    """Also where it ends no wait for a lock, as on Windows, and as `interrupt_main` does it everywhere."""
    before, silent = signal.signal(signal.SIGINT, signal.default_int_handler), Event()
    feed = Feed(iter(lambda: silent.wait(PATIENCE), True), is_live=True, changed=threading.Condition())
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            threading.Timer(0.1, _thread.interrupt_main).start()
            feed.next(None)
        assert feed.kept is None  # nothing has come meanwhile
    finally:
        signal.signal(signal.SIGINT, before)
        silent.set()
