"""Records the requests of tokens in Redis (contracts §1.6) before they are answered, so that no answered request is missing.

Uses that come while a record is being sent go together into the next record. A Redis that writes its file with each command
(appendfsync always) takes some milliseconds for a record, of one use or of a hundred.
"""

import asyncio
from collections import Counter

from usage_recorder.async_recorder import AsyncRecorder


class TokenUses:
    """Counts uses on one event loop. `instance_id` names this server in the usage of a token."""

    def __init__(self, recorder: AsyncRecorder, instance_id: str) -> None:
        self._recorder = recorder
        self._instance_id = instance_id
        self._uses: Counter[str] = Counter()
        self._recorded: asyncio.Future[None] | None = None
        self._recording: asyncio.Task[None] | None = None

    def add(self, token_id: str) -> asyncio.Future[None]:
        """Adds one use, now. The shared future is done when the use is recorded, or was dropped (the recorder counts that)."""
        self._uses[token_id] += 1
        if self._recorded is None:
            self._recorded = asyncio.get_running_loop().create_future()
        if self._recording is None or self._recording.done():
            self._recording = asyncio.ensure_future(self._record())
        return self._recorded

    async def close(self) -> None:
        """Waits until all uses are recorded; the time-outs of the recorder limit this. Add nothing afterwards."""
        if self._recording is not None:
            await self._recording

    async def _record(self) -> None:
        while (recorded := self._recorded) is not None:
            uses, self._uses, self._recorded = self._uses, Counter(), None
            try:
                await asyncio.gather(
                    *(
                        self._recorder.record_token(token_id, self._instance_id, count=count)
                        for token_id, count in uses.items()
                    )
                )
            finally:
                recorded.set_result(None)
