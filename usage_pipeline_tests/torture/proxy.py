"""A TCP proxy on a fixed loopback port: what a name or a virtual address in front of a Redis primary is in production.

It can be pointed to another server, and it can hold back what the server sends, which makes a replica behind it lag.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from usage_pipeline.local.servers.ports import LOOPBACK

_PIECE_BYTES = 65_536


class Proxy:
    """Forwards each connection to the target port of that moment; runs in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port: int | None = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._may_answer = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        self._may_answer.set()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, LOOPBACK, 0), self._loop
        ).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def hold(self) -> None:
        """From now on nothing that the server sends gets through; what clients send does."""
        self._call(self._may_answer.clear)

    def let_through(self) -> None:
        self._call(self._may_answer.set)

    def cut(self) -> None:
        """Ends all connections, with whatever was held back, and refuses new ones until the next `point_to`."""
        self._call(lambda: self._cut_and_point_to(None))

    def point_to(self, target_port: int) -> None:
        """Ends all connections; new ones go to that port, and nothing is held back any more."""
        self._call(lambda: self._cut_and_point_to(target_port))

    def _call(self, function: Callable[[], None]) -> None:
        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _cut_and_point_to(self, target_port: int | None) -> None:
        for writer in self._writers:
            # Not `close`, which would first send what is still buffered.
            writer.transport.abort()
        self._target_port = target_port
        self._may_answer.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._target_port is None:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        try:
            their_reader, their_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(their_writer)
        await asyncio.gather(
            self._forward(reader, their_writer, is_answer=False),
            self._forward(their_reader, writer, is_answer=True),
            return_exceptions=True,
        )
        self._writers -= {writer, their_writer}

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                if is_answer:
                    await self._may_answer.wait()
                writer.write(piece)
                await writer.drain()
        writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        self._cut_and_point_to(None)
        tasks = [task for task in asyncio.all_tasks(self._loop) if task is not asyncio.current_task()]
        # They end by themselves, since their connections did; cancelled ones would be complained about.
        if tasks:
            await asyncio.wait(tasks, timeout=5)
