from __future__ import annotations

import random
import socket

from heartwatch.platform import ports


def test_every_name_has_a_free_port_of_its_own_and_keeps_it() -> None:
    first = ports.choose(["a", "b"], {})
    assert len(set(first.values())) == 2
    assert all(ports.is_free(port) and ports.is_free(port + ports.GRPC_OFFSET) for port in first.values())
    second = ports.choose(["b", "c"], first)
    assert second["a"] == first["a"]
    assert second["b"] == first["b"]
    assert len(set(second.values())) == 3


def seeded() -> random.Random:
    return random.Random(1)


def test_a_taken_port_is_not_chosen() -> None:
    chosen = ports.choose(["a"], {}, seeded())["a"]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((ports.LOOPBACK, chosen))
        taken.listen()
        assert not ports.is_free(chosen)
        assert ports.choose(["a"], {}, seeded())["a"] != chosen


def test_ports_stay_below_those_of_outgoing_connections() -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        lowest = int(file.read().split()[0])
    assert all(port + ports.GRPC_OFFSET < lowest for port in ports.choose(map(str, range(50)), {}).values())
