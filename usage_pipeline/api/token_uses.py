"""Records the requests of tokens in Redis (contracts §1.6), those of a quarter of a second as one record per token.

A Redis that writes its file with each command (appendfsync always) holds up whatever is asked of it meanwhile: a record for
each request cost several times as much as the request.
"""

import asyncio
from collections import Counter
from contextlib import suppress

from usage_pipeline.counters.recorder import AsyncRecorder

FLUSH_SECONDS = 0.25


class TokenUses:
    """Counts on one event loop; `close` records what is left. `instance_id` names this server in the token's usage.

    Only what a killed process had counted in its last FLUSH_SECONDS is lost, and what a recorder drops.
    """

    def __init__(self, recorder: AsyncRecorder, instance_id: str) -> None:
        self._recorder = recorder
        self._instance_id = instance_id
        self._uses: Counter[str] = Counter()
        self._stopping = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None

    def add(self, token_id: str) -> None:
        """One use, now. Waits for nothing."""
        self._uses[token_id] += 1
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.ensure_future(self._flush())

    async def close(self) -> None:
        """Records what was counted; the recorder's time-outs bound it. Nothing is added afterwards."""
        self._stopping.set()
        if self._flushing is not None:
            await self._flushing

    async def _flush(self) -> None:
        while self._uses:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), FLUSH_SECONDS)
            uses, self._uses = self._uses, Counter()
            await asyncio.gather(
                *(
                    self._recorder.record_token(token_id, self._instance_id, count=count)
                    for token_id, count in uses.items()
                )
            )
