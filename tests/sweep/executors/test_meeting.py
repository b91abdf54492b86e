"""Processes that meet at a store on one of them."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest

from dpo_bench.sweep.executors.meeting import Meeting, interface_of, join_store, open_store


def follow(meeting: Meeting) -> None:
    join_store(None, meeting, 1, "127.0.0.1", None).follow()


def lead(pipe: Any) -> None:
    """Tell where to meet, then what both say together."""
    import torch

    store, meeting = open_store("127.0.0.2", 2)
    pipe.send(meeting)
    ranks = join_store(store, meeting, 0, "127.0.0.2", None)
    pipe.send(ranks.call(total_of, 3.0, ranks))
    ranks.end()
    assert torch.distributed.is_initialized()


def total_of(value: float, ranks: Any) -> float:
    import torch

    return float(ranks.total(torch.tensor([value + ranks.rank])))


def test_two_processes_meet_at_an_address_and_a_free_port() -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ranks", "dpo_bench.sweep.preload"])
    ours, theirs = context.Pipe()
    leads = context.Process(target=lead, args=(theirs,), daemon=True)
    leads.start()
    theirs.close()
    assert ours.poll(60)
    meeting = ours.recv()
    assert (meeting.host, meeting.size) == ("127.0.0.2", 2)
    with pytest.raises(ConnectionRefusedError):  # it listens there and nowhere else
        socket.create_connection(("127.0.0.1", meeting.port), 1)
    follows = context.Process(target=follow, args=(meeting,), daemon=True)
    follows.start()
    assert ours.poll(60)
    assert ours.recv() == 3.0 + 4.0
    for process in (leads, follows):
        process.join(30)
        assert process.exitcode == 0


def test_a_store_opens_at_this_machine_only() -> None:
    with pytest.raises(OSError, match="address"):
        open_store("203.0.113.7", 2)


def test_the_interface_is_the_one_that_leads_to_an_address() -> None:
    names = {name for _, name in socket.if_nameindex()}
    assert interface_of("127.0.0.1") == interface_of("127.0.0.9") in names
    assert interface_of("203.0.113.7") is None
    assert interface_of("::1") is None
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        name, destination, *_, mask, _, _, _ = line.split("\t")
        if int(mask, 16):  # a network that is reached without a gateway: any address of it
            packed = int(destination, 16) | (1 << 24)
            address = socket.inet_ntoa(packed.to_bytes(4, "little"))
            assert interface_of(address) == name
