"""What people who look at the live page cost the pipeline: its throughput with and without them, in turns of one run.

Run against a platform that is up (`heartwatch up`); the pipeline is deployed first where it isn't yet:

    python -m benchmarks.web_viewers --viewers 200

In each phase producers send as fast as they can; in every other one so many viewers have the overview open: each keeps a web
socket of its own and takes all that is pushed, as a browser does, but draws nothing (people's browsers are on machines of their
own). They come before the producers start: the page's server has a lower priority than the pipeline, so that on a machine that is
all in use 200 pages take minutes to be made. Two figures come out:

- events/s that the query has read and written results of, with viewers over without;
- the processor time that the page's server takes for them, in percent of the machine's: the share of its throughput that a
  pipeline which uses all of the machine would lose.

The viewers' own process runs on this machine too, at the same priority as the pipeline. The first figure pays for it, the second
doesn't; its processor time is printed beside them.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from urllib.parse import urlencode

import httpx
import psutil
import websockets
from rich.console import Console

from flows.demo import deploy
from heartwatch.analytic import Analytic
from heartwatch.platform.platform import Platform
from heartwatch.settings import load_settings
from heartwatch.web.operations import Operations, Order
from heartwatch.web.prefect_api import PrefectApi
from kafkakit.waiting import wait_until
from ksqlengine.client.rest_client import Ksqldb, StatementRefusedError

_QUERY = re.compile(r"query: (\{.*?\}),")
_AT_ONCE = 10
_ACKNOWLEDGE_SECONDS = 3.0
_SETTLE_SECONDS = 3.0
_SMALL = Order(whole=True, people=2_000, events=50_000)
_DEPLOY_SECONDS = 300.0
_WARM_EVENTS = 50_000
_REST_SECONDS = 3.0
_REST_PERCENT = 25.0


@dataclass
class Received:
    """What viewers got: frames."""

    frames: int = 0


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
            if frame == "2":
                await socket.send("3")
            elif isinstance(frame, str) and frame.startswith("42"):
                frames += 1
                if time.monotonic() - acknowledged > _ACKNOWLEDGE_SECONDS:
                    acknowledged = time.monotonic()
                    message = ["ack", {"client_id": query["client_id"], "next_message_id": frames}]
                    await socket.send(f"42{json.dumps(message)}")


async def view_all(url: str, viewers: int, there: Event, enough: Event, results: multiprocessing.Queue[Looked]) -> None:
    """Have so many pages open from `there` until `enough`."""
    received = Received()
    tasks = []
    for number in range(viewers):
        tasks.append(asyncio.create_task(view(url, received)))
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0.3)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        while (await client.get("/health")).json()["viewers"] < viewers:
            _check(tasks)
            await asyncio.sleep(0.3)
    await asyncio.sleep(_SETTLE_SECONDS)
    begun, before, cpu = time.monotonic(), received.frames, time.process_time()
    there.set()
    while not enough.is_set():
        await asyncio.sleep(0.2)
    seconds = time.monotonic() - begun
    results.put(Looked((received.frames - before) / viewers / seconds, (time.process_time() - cpu) / seconds))
    _check(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _check(tasks: list[asyncio.Task[None]]) -> None:
    """Check that nobody's page was closed."""
    gone = [task for task in tasks if task.done()]
    assert not gone, f"{len(gone)} of {len(tasks)} viewers were cut off: {gone[0].exception()!r}"


def _look(url: str, viewers: int, there: Event, enough: Event, results: multiprocessing.Queue[Looked]) -> None:
    asyncio.run(view_all(url, viewers, there, enough, results))


@dataclass(frozen=True)
class Looked:
    """What looking was like: frames a viewer and second, and the processor time of all viewers together, s a second."""

    frames: float
    cpu: float


@contextmanager
def viewing(url: str, viewers: int, results: list[Looked]) -> Iterator[None]:
    """Have viewers for a while; what they got is added to `results`. None of them may be cut off."""
    context = multiprocessing.get_context("spawn")
    there, enough, queue = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=_look, args=(url, viewers, there, enough, queue))
    process.start()
    try:
        while not there.wait(0.5):
            assert process.is_alive(), "the viewers couldn't connect"
        yield
    finally:
        enough.set()
        process.join(60)
    assert process.exitcode == 0, "viewers were cut off; see above"
    results.append(queue.get(timeout=5))


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
    parser.add_argument("--events", type=int, default=100_000_000, help="events that the producers have in store")
    options = parser.parse_args()
    settings = load_settings()
    status = next(one for one in Platform(settings.home).status() if one.name == "web")
    assert status.pid is not None, "the page isn't up: heartwatch up"
    server, ksqldb = psutil.Process(status.pid), Ksqldb(settings.ksqldb)
    stream = Analytic.of(settings.pipeline).name("realtime").upper()

    def count() -> int:
        return ksqldb.describe(stream).statistics.consumed

    pipeline = Pipeline(PrefectApi(settings), count, Order(whole=False, people=20_000, events=options.events))
    prepare(pipeline)
    without: list[Phase] = []
    with_viewers: list[Phase] = []
    looked: list[Looked] = []

    def alone() -> None:
        with pipeline.producing():
            without.append(measure(count, server, options.seconds))

    def looked_at() -> None:
        with viewing(status.address, options.viewers, looked), pipeline.producing():
            with_viewers.append(measure(count, server, options.seconds))

    for turn in range(options.turns):
        # What a phase leaves behind slows the next one: each kind comes first as often as the other.
        for phase in (alone, looked_at) if turn % 2 == 0 else (looked_at, alone):
            phase()
        rates = f"{without[-1].rate:,.0f} events/s without viewers, {with_viewers[-1].rate:,.0f} with"
        print(f"turn {turn + 1} of {options.turns}: {rates}", flush=True)
    report(options.viewers, without, with_viewers, looked, server.memory_info().rss)


class Pipeline:
    """The pipeline under load."""

    def __init__(self, prefect: PrefectApi, count: Callable[[], int], order: Order) -> None:
        """Prepare.

        Args:
            prefect: Prefect's API.
            count: returns how many events the query has read.
            order: what producers send under load.
        """
        self.count = count
        self._prefect, self._order = prefect, order
        self._operations = Operations(prefect)

    def run(self, order: Order) -> str:
        """Start a run and return its name."""
        return self._operations.run(order)[0]

    @contextmanager
    def producing(self) -> Iterator[None]:
        """Have producers send for a while; before that, all that others sent has gone its way, to the sink too."""
        _wait(lambda: psutil.cpu_percent(_REST_SECONDS) < _REST_PERCENT, "the machine's rest")
        before = self.count()
        name = self.run(self._order)
        try:
            _wait(lambda: self.count() > before + _WARM_EVENTS, "the producers' events")
            yield
            assert self.state(name) == "RUNNING", "the producers ran out of events: give more with --events"
        finally:
            self._operations.stop_producers()
        self.completed(name)

    def state(self, name: str) -> str:
        """Return the state's type of a run."""
        found = self._prefect.ask("POST", "/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return str(found[0]["state_type"])

    def completed(self, name: str) -> None:
        """Wait for a run's end."""

        def ended() -> bool:
            state = self.state(name)
            assert state in {"SCHEDULED", "PENDING", "RUNNING", "COMPLETED"}, f"run {name!r} is {state}"
            return state == "COMPLETED"

        _wait(ended, f"the end of run {name!r}")


def _wait(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, _DEPLOY_SECONDS, 0.5, lambda: AssertionError(f"{what} did not come in {_DEPLOY_SECONDS:g} s"))


def prepare(pipeline: Pipeline) -> None:
    """Deploy the pipeline by a small run of all of it, where it isn't there yet."""
    with suppress(StatementRefusedError):
        pipeline.count()
        return
    deploy(Console(quiet=True))
    pipeline.completed(pipeline.run(_SMALL))


def report(viewers: int, without: list[Phase], with_viewers: list[Phase], looked: list[Looked], memory: int) -> None:
    """Print what came out."""
    cores = os.cpu_count() or 1
    for name, phases in (("no viewers", without), (f"{viewers} viewers", with_viewers)):
        rates = ", ".join(f"{phase.rate:,.0f}" for phase in phases)
        cpu = statistics.median(phase.cpu for phase in phases)
        print(f"{name:<14} {rates} events/s; server {100 * cpu / cores:.2f} % of the machine")
    ratio = statistics.median(on.rate / off.rate for on, off in zip(with_viewers, without, strict=True))
    extra = statistics.median(on.cpu - off.cpu for on, off in zip(with_viewers, without, strict=True))
    own = statistics.median(one.cpu for one in looked)
    frames = statistics.median(one.frames for one in looked)
    print(f"throughput with viewers / without, median of {len(without)} pairs: {ratio:.3f}")
    print(f"processor time of the server for {viewers} viewers: {100 * extra / cores:.2f} % of the machine's")
    print(f"processor time of the viewers themselves: {100 * own / cores:.2f} % of the machine's")
    print(
        f"every viewer got {frames:.2f} updates a second, none was cut off; server's memory {memory / 2**20:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
