"""Loopback ports: chosen once at random, kept afterwards."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Mapping

from heartwatch.platform.errors import PartError

LOOPBACK = "127.0.0.1"

GRPC_OFFSET = 10_000
"""SeaweedFS listens for gRPC on each of its ports + 10000."""

# Below the range that Linux gives to outgoing connections (32768 and up), with room for the offset: a part that is
# restarted finds its port free.
_LOWEST, _HIGHEST = 10_240, 22_700
_TRIES = 1_000


def is_free(port: int) -> bool:
    """Tell whether a program could listen on the port now."""
    with socket.socket() as probe:
        # As servers do: connections of an earlier server that linger don't keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose(names: Iterable[str], kept: Mapping[str, int], rng: random.Random | None = None) -> dict[str, int]:
    """Give every name a port of its own, those that have one already keep it.

    Args:
        names: what needs a port.
        kept: ports chosen earlier, by name.
        rng: source of randomness.

    Returns:
        A port for each of `names` and of `kept`; a new port is free, and so is the one `GRPC_OFFSET` above it.

    Raises:
        PartError: no free port was found.
    """
    rng = rng or random.SystemRandom()
    ports = dict(kept)
    for name in names:
        if name not in ports:
            ports[name] = _free_port(set(ports.values()), rng)
    return ports


def _free_port(taken: set[int], rng: random.Random) -> int:
    for _ in range(_TRIES):
        port = rng.randrange(_LOWEST, _HIGHEST)
        if port not in taken and is_free(port) and is_free(port + GRPC_OFFSET):
            return port
    raise PartError(f"no free loopback port between {_LOWEST} and {_HIGHEST}; stop programs that listen there")
