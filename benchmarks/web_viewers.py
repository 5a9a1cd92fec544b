"""What people who look at the live page cost the pipeline: its throughput with and without them, in turns of one run.

Run against a platform that is up, with the pipeline deployed (`heartwatch demo`):

    python -m benchmarks.web_viewers --viewers 200

Producers send as fast as they can all the while. In every other phase so many viewers have the overview open: each keeps a web
socket of its own and takes all that is pushed, as a browser does, but draws nothing (people's browsers are on machines of their
own; the viewers here yield to everything else). Two figures come out: events/s of the query with viewers over those without,
and the processor time that the page's server takes for them, in percent of the machine's: the share of its throughput that a
pipeline which uses all of the machine would lose.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import multiprocessing
import os
import re
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from urllib.parse import urlencode

import httpx
import psutil
import websockets

from heartwatch.analytic import Analytic
from heartwatch.ksqldb import Ksqldb
from heartwatch.settings import load_settings
from heartwatch.stack.platform import Platform
from heartwatch.web.operations import Operations, Order
from heartwatch.web.parts import PrefectApi

_QUERY = re.compile(r"query: (\{.*?\}),")
_AT_ONCE = 10
_ACKNOWLEDGE_SECONDS = 3.0


@dataclass
class Received:
    """What viewers got: frames and bytes."""

    frames: int = 0
    bytes: int = 0


async def view(url: str, received: Received) -> None:
    """Have a page open until cancelled: load it, connect its web socket, take what comes and acknowledge it."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        found = _QUERY.search((await client.get(f"{url}/")).raise_for_status().text)
    assert found, "the page has no socket's parameters"
    query = ast.literal_eval(found[1]) | {
        "implicit_handshake": "true",
        "document_id": uuid.uuid4().hex,
        "tab_id": uuid.uuid4().hex,
    }
    address = (
        f"{url.replace('http', 'ws')}/_nicegui_ws/socket.io/?{urlencode(query | {'EIO': 4, 'transport': 'websocket'})}"
    )
    async with websockets.connect(
        address, compression=None, max_size=None, ping_interval=None, open_timeout=120, proxy=None
    ) as socket:
        await socket.send("40")
        acknowledged, frames = time.monotonic(), 0
        async for frame in socket:
            received.frames += 1
            received.bytes += len(frame)
            if frame == "2":
                await socket.send("3")
            elif isinstance(frame, str) and frame.startswith("42"):
                frames += 1
                if time.monotonic() - acknowledged > _ACKNOWLEDGE_SECONDS:
                    acknowledged = time.monotonic()
                    message = ["ack", {"client_id": query["client_id"], "next_message_id": frames}]
                    await socket.send(f"42{json.dumps(message)}")


async def view_all(url: str, viewers: int, there: Event, enough: Event, frames: multiprocessing.Queue[int]) -> None:
    """Have so many pages open from `there` until `enough`."""
    received = Received()
    tasks = []
    for number in range(viewers):
        tasks.append(asyncio.create_task(view(url, received)))
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0.3)
    while httpx.get(f"{url}/health", timeout=30, trust_env=False).json()["viewers"] < viewers:
        failed = [task for task in tasks if task.done()]
        assert not failed, failed[0].exception()
        await asyncio.sleep(0.3)
    begun, before = time.monotonic(), received.frames
    there.set()
    while not enough.is_set():
        await asyncio.sleep(0.2)
    frames.put(round((received.frames - before) / (time.monotonic() - begun)))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _look(url: str, viewers: int, there: Event, enough: Event, frames: multiprocessing.Queue[int]) -> None:
    os.nice(19)
    asyncio.run(view_all(url, viewers, there, enough, frames))


@contextmanager
def viewing(url: str, viewers: int, rates: list[int]) -> Iterator[None]:
    """Have viewers for a while; the frames/s that they got together are added to `rates`."""
    context = multiprocessing.get_context("spawn")
    there, enough, frames = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=_look, args=(url, viewers, there, enough, frames))
    process.start()
    try:
        while not there.wait(0.5):
            assert process.is_alive(), "the viewers couldn't connect"
        yield
    finally:
        enough.set()
        process.join(60)
    rates.append(frames.get(timeout=5))


@dataclass(frozen=True)
class Phase:
    """What a phase took: events/s of the query, and the page's server's processor time, s a second."""

    rate: float
    cpu: float


def measure(count: Callable[[], int], server: psutil.Process, seconds: float) -> Phase:
    """Measure for some seconds."""
    events, cpu, begun = count(), sum(server.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begun
    return Phase((count() - events) / passed, (sum(server.cpu_times()[:2]) - cpu) / passed)


def main() -> None:
    """Run and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--turns", type=int, default=4, help="phases without viewers, and as many with them")
    parser.add_argument("--seconds", type=float, default=15, help="length of a phase")
    parser.add_argument("--events", type=int, default=20_000_000, help="events that the producers have in store")
    options = parser.parse_args()
    settings = load_settings()
    status = next(one for one in Platform(settings.home).status() if one.name == "web")
    assert status.pid is not None, "the page isn't up: heartwatch up --parts web"
    server, ksqldb = psutil.Process(status.pid), Ksqldb(settings.ksqldb)
    stream = Analytic.of(settings.pipeline).name("realtime").upper()

    def count() -> int:
        return ksqldb.describe(stream).statistics.consumed

    operations = Operations(PrefectApi(settings))
    operations.run(Order(whole=False, people=20_000, events=options.events))
    without, with_viewers, frames = [], [], []
    try:
        before = count()
        while count() < before + 50_000:
            time.sleep(0.5)
        for _ in range(options.turns):
            without.append(measure(count, server, options.seconds))
            with viewing(status.address, options.viewers, frames):
                with_viewers.append(measure(count, server, options.seconds))
        memory = server.memory_info().rss
    finally:
        operations.stop_producers()
    report(options.viewers, without, with_viewers, frames, memory)


def report(viewers: int, without: list[Phase], with_viewers: list[Phase], frames: list[int], memory: int) -> None:
    """Print what came out."""
    cores = os.cpu_count() or 1
    for name, phases in (("no viewers", without), (f"{viewers} viewers", with_viewers)):
        rates = ", ".join(f"{phase.rate:,.0f}" for phase in phases)
        cpu = statistics.median(phase.cpu for phase in phases)
        print(f"{name:<14} {rates} events/s; server {100 * cpu / cores:.2f} % of the machine")
    ratio = statistics.median(on.rate / off.rate for on, off in zip(with_viewers, without, strict=True))
    extra = statistics.median(on.cpu - off.cpu for on, off in zip(with_viewers, without, strict=True))
    print(f"throughput with viewers / without, median of {len(without)} pairs: {ratio:.3f}")
    print(f"processor time of the server for {viewers} viewers: {100 * extra / cores:.2f} % of the machine's")
    print(f"frames pushed: {statistics.median(frames):,.0f} a second; server's memory {memory / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
