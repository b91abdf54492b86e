"""The inputs of the next pass are made while a GPU computes this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def one_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threaded: bool
) -> Iterator[Result]:
    """What a function gives for each item, in their order.

    Args:
        function: must not depend on what is done with its results.
        items: few enough to be listed.
        threaded: whether the next item's result is made in a thread while one is used; never more
            than one is made ahead. Else each is made when it is asked for.

    Raises:
        Exception: what the function raises, where its result would have come.
    """
    if not threaded:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="inputs") as thread:
        waiting: Future[Result] | None = None
        for item in items:
            # The thread takes this one up when it has made the one that is waited for.
            following = thread.submit(function, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
