"""Where the processes of one worker meet that no launcher and no shared folder brings together.

One of them opens a store at an address of its own machine, at a port that is free there; the others
are told both.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

    from dpo_bench.model.ranks import Ranks

SECONDS_TO_MEET = 300.0
"""How long a process looks for the store: its own start, and that of the libraries, takes time."""
INTERFACE = "GLOO_SOCKET_IFNAME"
"""By which gloo is told the network interface; else it takes what the machine's name leads to."""
ADDRESS_OF, MASK_OF = 0x8915, 0x891B
"""Linux's questions about an interface: SIOCGIFADDR, SIOCGIFNETMASK."""


class Meeting(NamedTuple):
    """Where a store is.

    Attributes:
        host: address of its machine.
        port: on which it listens there, and at no other address.
        size: how many processes meet.
    """

    host: str
    port: int
    size: int


def open_store(host: str, size: int) -> tuple[TCPStore, Meeting]:
    """Open a store for so many processes at an address of this machine.

    Args:
        host: the address.
        size: how many there are with this one.

    Raises:
        OSError: it is no address of this machine.
    """
    import torch.distributed as dist

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    meeting = Meeting(host, listener.getsockname()[1], size)
    store = dist.TCPStore(  # type: ignore[attr-defined]  # torch exports it without saying so
        host,
        meeting.port,
        size,
        is_master=True,
        timeout=timedelta(seconds=SECONDS_TO_MEET),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    return store, meeting


def join_store(
    store: TCPStore | None, meeting: Meeting, rank: int, own_address: str, gpu: int | None
) -> Ranks:
    """Meet the others.

    Args:
        store: on the process that has opened it.
        meeting: where it is.
        rank: this process's number.
        own_address: by which other machines know this one; what is said on the CPU goes that way.
        gpu: see `Ranks.join`.
    """
    import torch.distributed as dist

    from dpo_bench.model.ranks import Ranks

    if name := interface_of(own_address):
        os.environ.setdefault(INTERFACE, name)
    if store is None:
        store = dist.TCPStore(  # type: ignore[attr-defined]  # likewise
            meeting.host, meeting.port, meeting.size, timeout=timedelta(seconds=SECONDS_TO_MEET)
        )
    return Ranks.join(rank, meeting.size, store, gpu)


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an address, or whose network has it.

    None where that cannot be told: IPv6, or not Linux.
    """
    try:
        wanted = ipaddress.IPv4Address(address)
    except ValueError:
        return None
    found = list(_interfaces())
    same = [name for name, own in found if own.ip == wanted]
    near = [name for name, own in found if wanted in own.network]
    return next(iter(same + near), None)


def _interfaces() -> Iterator[tuple[str, ipaddress.IPv4Interface]]:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:

        def ask(question: int, name: str) -> str:
            request = struct.pack("256s", name.encode()[:15])
            return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), question, request)[20:24])

        for _, name in socket.if_nameindex():
            try:
                both = f"{ask(ADDRESS_OF, name)}/{ask(MASK_OF, name)}"
            except OSError:  # it has no address of this kind
                continue
            yield name, ipaddress.IPv4Interface(both)
