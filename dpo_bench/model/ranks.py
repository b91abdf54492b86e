"""The processes (ranks) that hold one model together: one leads, the others do what it says.

The leading rank runs a whole trial, from its data to its report, as a process that is alone does.
Where a model's weights are needed, which no rank has all of, it has a function called on all ranks
at once; so the ranks meet in the same collectives by construction, and nothing but the leading one
ever decides, reads a clock, asks a judge or writes a result.
"""

from __future__ import annotations

import io
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import dill
import torch
import torch.distributed as dist
from torch import Tensor

from dpo_bench.errors import TrialError
from dpo_bench.model.allocator import use_expandable_segments

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Part = TypeVar("Part")

FOREVER = timedelta(days=365)
"""How long a rank waits for the next call: as long as the leading one has other things to do."""
COLLECTIVE = timedelta(minutes=10)
"""How long a rank waits within a collective, in which all ranks are."""
SECONDS_AFTER_ERROR = 60.0
"""How soon a next call must follow one that failed on a rank."""
EXIT_LOST = 70
"""Exit code of a rank that the others do not answer."""


class RanksLostError(TrialError):
    """The ranks do not answer each other: their processes have to be replaced."""


class Ranks:
    """This process among those that hold a model together; alone when there is no other.

    Attributes:
        rank: its number, from 0; 0 leads.
        size: how many there are.
        shared: what all ranks have under the same name: passed by name instead of by value.
        control: the process group (gloo) of what is no tensor of a model's; None when alone.
    """

    def __init__(self, rank: int = 0, size: int = 1, control: Any = None) -> None:
        self.rank = rank
        self.size = size
        self.shared: dict[str, Any] = {"ranks": self}
        self.control = control
        self._in_doubt = self._has_ended = False
        self._after: Callable[[int], None] | None = None

    @classmethod
    def join(cls, rank: int, size: int, rendezvous: str | Store, gpu: int | None = None) -> Ranks:
        """Meet the other ranks.

        Args:
            rank: this one's number.
            size: how many there are.
            rendezvous: where: a store, or as ``init_process_group`` has it: ``file:///...`` or
                ``env://``.
            gpu: number of this rank's GPU among those that it sees (then NCCL is used, too); None:
                on the CPU (gloo).
        """
        if size == 1:
            return cls()
        if gpu is not None:
            use_expandable_segments()
            torch.cuda.set_device(gpu)
        backend = "gloo" if gpu is None else "cpu:gloo,cuda:nccl"
        place, store = (rendezvous, None) if isinstance(rendezvous, str) else (None, rendezvous)
        dist.init_process_group(backend, place, COLLECTIVE, rank=rank, world_size=size, store=store)
        return cls(rank, size, dist.new_group(backend="gloo", timeout=FOREVER))

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.size == 1

    def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """Have a function called on all ranks; for the leading rank only.

        Args:
            function: of a module's top level, or a method of a shared object.
            args: what can be pickled, or is shared.

        Returns:
            what it gave here.

        Raises:
            RanksLostError: the others do not answer.
        """
        if self.alone:
            return function(*args)
        self.require_others()
        try:
            self._broadcast(_dumps((function, args), self.shared))
            return function(*args)
        except BaseException as error:
            self._in_doubt = True
            if _is_of_connections(error):
                raise RanksLostError(_told_by_connections(error)) from error
            raise

    def share(self, name: str, value: Any) -> None:
        """Give all ranks a value under a name; for the leading rank only."""
        self.call(_share, self, name, value)

    def follow(self) -> None:
        """Do what the leading rank says until it says no more; for the other ranks.

        A call that fails here is expected to fail there too, which then asks whether all are well.
        Where it does not, this rank ends itself, and with it the collective in which others wait.

        Raises:
            RanksLostError: the leading one is gone.
        """
        timer: threading.Timer | None = None
        while True:
            try:
                message = self._broadcast(None)
            except RuntimeError as error:
                raise RanksLostError(_told_by_connections(error)) from error
            if timer is not None:
                timer.cancel()
                timer = None
            if message is None:
                return
            try:
                function, args = _loads(message, self.shared)
                function(*args)
            except Exception as error:
                log.debug("rank %d: %s: %s", self.rank, type(error).__name__, error)
                timer = threading.Timer(SECONDS_AFTER_ERROR, os._exit, [EXIT_LOST])
                timer.daemon = True
                timer.start()

    def end(self) -> None:
        """Let the others go, once; for the leading rank only."""
        if not self.alone and not self._has_ended:
            self._has_ended = True
            self._broadcast(b"")

    def spread(
        self,
        function: Callable[..., Result],
        parts: Sequence[Part],
        *args: Any,
        after: Callable[[int], None] | None = None,
    ) -> list[Result]:
        """What a function gives for each part, the parts dealt to all ranks.

        All ranks make equally many calls, so that a model whose weights are divided among them may
        be run in each; what is called beyond the parts is thrown away.

        Args:
            function: called with ``args`` and a part, on any rank.
            parts: what there is to do, neighbors of similar size.
            args: what can be pickled, or is shared.
            after: told here how many parts are done, about.
        """
        if self.alone:
            found = []
            for number, part in enumerate(parts, start=1):
                found.append(function(*args, part))
                if after is not None:
                    after(number)
            return found
        self._after = after
        return self.call(_spread, self, function, list(parts), args)

    def tell(self, done: int) -> None:
        """Say how far a `spread` is to who asked, who is here if anywhere."""
        if self._after is not None:
            self._after(done)

    def share_of(self, parts: Sequence[Part]) -> list[Part]:
        """This rank's parts, the last one repeated where others have one more."""
        rounds = -(-len(parts) // self.size)
        return [parts[min(turn * self.size + self.rank, len(parts) - 1)] for turn in range(rounds)]

    def total(self, values: Tensor) -> Tensor:
        """The sum of all ranks' values; on all ranks, within a call."""
        if self.alone:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values

    def assemble(self, values: Tensor, places: Tensor, size: int) -> Tensor:
        """One vector of what each rank has of it; on all ranks, within a call.

        Args:
            values: this rank's, shape [share].
            places: where they stand in the whole, shape [share].
            size: of the whole.
        """
        whole = values.new_zeros(size)
        whole[places] = values
        dist.all_reduce(whole)
        return whole

    def gather(self, value: Result) -> list[Result]:
        """Each rank's value, in their order, to the leading rank, within a call."""
        found: list[Any] = [None] * self.size
        dist.gather_object(value, found if self.rank == 0 else None, dst=0, group=self.control)
        return found

    def broadcast(self, value: Tensor) -> None:
        """Fill a tensor in the memory of the CPU with the leading rank's, within a call."""
        dist.broadcast(value, src=0, group=self.control)

    def require_others(self) -> None:
        """After a call that failed: see that every rank is waiting for the next.

        Raises:
            RanksLostError: one is not.
        """
        if not self._in_doubt:
            return
        self._broadcast(_dumps((_answer, (self,)), self.shared))
        try:
            _answer(self)
        except RuntimeError as error:
            raise RanksLostError("a rank does not answer after an error") from error
        self._in_doubt = False

    def _broadcast(self, message: bytes | None) -> bytes | None:
        """From the leading rank to all; ``b""``, which comes out as None, is the last."""
        box = [message]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0] or None


ALONE = Ranks()


def _dumps(value: Any, shared: dict[str, Any]) -> bytes:
    names = {id(one): name for name, one in shared.items()}

    class Pickler(dill.Pickler):  # type: ignore[misc]  # losses are closures
        def persistent_id(self, obj: Any) -> str | None:
            return names.get(id(obj))

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _loads(message: bytes, shared: dict[str, Any]) -> Any:
    class Unpickler(dill.Unpickler):  # type: ignore[misc]
        def persistent_load(self, pid: str) -> Any:
            return shared[pid]

    return Unpickler(io.BytesIO(message)).load()


def _is_of_connections(error: BaseException) -> bool:
    """Whether an error came from what ranks say each other, by gloo or NCCL."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _told_by_connections(error: BaseException) -> str:
    """What happened, without the line of the library's source and advice."""
    text = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split())).partition(". ")[0]
    return f"the processes that hold the model have lost each other: {text}"


def _share(ranks: Ranks, name: str, value: Any) -> None:
    ranks.shared[name] = value


def _spread(
    ranks: Ranks, function: Callable[..., Any], parts: Sequence[Any], args: tuple[Any, ...]
) -> list[Any]:
    found = []
    for turn, part in enumerate(ranks.share_of(parts), start=1):
        found.append(function(*args, part))
        ranks.tell(min(turn * ranks.size, len(parts)))
    shares = ranks.gather(found)
    if ranks.rank:
        return []
    return [shares[at % ranks.size][at // ranks.size] for at in range(len(parts))]


def _answer(ranks: Ranks) -> None:
    dist.monitored_barrier(group=ranks.control, timeout=timedelta(seconds=SECONDS_AFTER_ERROR))
