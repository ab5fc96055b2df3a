"""Connections that last: how many there may be, and what a stop does to them."""

import os
import threading
from types import SimpleNamespace

from api.websocket.gunicorn_socket import Farewell, Seats


def test_there_are_so_many_seats_and_one_that_is_left_can_be_taken_again() -> None:
    seats = Seats(2, 2)
    assert [seats.take() for _ in range(3)] == [True, True, False]
    seats.leave()
    assert seats.take()
    assert seats.taken == 2


def test_one_user_does_not_take_them_all() -> None:
    seats = Seats(10, 2)
    assert [seats.take("ada") for _ in range(3)] == [True, True, False]
    assert seats.take("grace")
    assert seats.take()
    seats.leave("ada")
    assert seats.take("ada")


def test_no_seats_at_all() -> None:
    assert not Seats(0, 1).take()


def test_a_seat_is_left_whatever_happens_on_it() -> None:
    seats = Seats(1, 1)
    try:
        with seats.taken_by("ada") as seated, seats.taken_by("grace") as refused:
            assert (seated, refused) == (True, False)
            raise ConnectionError
    except ConnectionError:
        pass
    assert seats.taken == 0


def test_many_threads_never_take_more_than_there_are() -> None:
    seats, got = Seats(50, 50), []
    threads = [threading.Thread(target=lambda: got.extend(seats.take() for _ in range(20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (got.count(True), seats.taken) == (50, 50)


def test_a_worker_that_is_told_to_stop_says_farewell_once_to_all() -> None:
    worker, farewell, said = SimpleNamespace(alive=True, ppid=os.getppid()), Farewell(), []
    done = threading.Event()

    def fail() -> None:
        raise OSError

    for task in (fail, lambda: said.append("first"), done.set):
        farewell.add(task)
    farewell.watch(worker)
    assert not done.wait(0.6)
    worker.alive = False
    assert done.wait(30)
    assert (said, farewell.stopping) == (["first"], True)


def test_a_worker_whose_master_died_says_farewell_too() -> None:
    farewell, done = Farewell(), threading.Event()
    farewell.add(done.set)
    farewell.watch(SimpleNamespace(alive=True, ppid=os.getppid() + 1))
    assert done.wait(30)
