"""Test pools of MediaPipe tasks with tasks that only note what is done to them."""

import gc

import pytest

from moodreel.faces.mediapipe_tasks import TaskPool


class NotedTask:
    """A task that notes that it was closed."""

    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


def make_pool():
    """Return a pool that has two idle tasks, and the tasks."""
    tasks = []
    pool = TaskPool(lambda: tasks.append(NotedTask()) or tasks[-1])
    with pool.borrow(), pool.borrow():
        pass
    return pool, tasks


def test_an_idle_task_is_borrowed_again():
    pool, tasks = make_pool()
    with pool.borrow() as first, pool.borrow() as second:
        assert {first, second} == set(tasks)


def test_the_garbage_collector_closes_no_task_and_the_next_borrower_does():
    pool, tasks = make_pool()
    pool.itself = pool  # a cycle: only the garbage collector finds it
    del pool
    gc.collect()
    assert not any(task.closed for task in tasks)
    other, _ = make_pool()
    with other.borrow():
        assert all(task.closed for task in tasks)


def test_a_closed_pool_closes_its_tasks_and_lends_none():
    pool, tasks = make_pool()
    with pool.borrow() as borrowed:
        pool.close()
        assert [task.closed for task in tasks] == [task is not borrowed for task in tasks]
    assert borrowed.closed
    with pytest.raises(RuntimeError, match="closed"), pool.borrow():
        pass
