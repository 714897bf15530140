"""The next batch is read while the model answers this one, and nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from trainers.scoring.workers import ahead


def test_the_next_item_is_worked_on_while_this_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def work(item: int) -> int:
        begun[item].set()
        return 10 * item

    with ThreadPoolExecutor(max_workers=1) as pool:
        for item, made in ahead(pool, work, range(3)):
            assert made == 10 * item
            assert item == 2 or begun[item + 1].wait(timeout=30)


def test_no_more_than_one_item_is_read_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(5):
            taken.append(item)
            yield item

    with ThreadPoolExecutor(max_workers=1) as pool:
        for item, _ in ahead(pool, str, items()):
            assert len(taken) == min(item + 2, 5)
    assert taken == [0, 1, 2, 3, 4]


def test_an_error_of_the_reader_reaches_the_caller_at_its_item() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise OSError("the disk is gone")
        return item

    with ThreadPoolExecutor(max_workers=1) as pool:
        found = ahead(pool, work, range(3))
        assert next(found) == (0, 0)
        with pytest.raises(OSError, match="the disk is gone"):
            next(found)


def test_nothing_is_made_of_no_item() -> None:
    with ThreadPoolExecutor(max_workers=1) as pool:
        assert list(ahead(pool, str, [])) == []
