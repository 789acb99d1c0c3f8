"""A turn under way, as its reader sees it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .errors import ClientClosed
from .events import ErrorDetail, ErrorEvent, MessageEnd, MessageStart, Restarted, TurnEvent
from .link import Link
from .reader import Answer, TurnReader
from .requests import Request

if TYPE_CHECKING:
    from .client import TurnClient


class TurnStream:
    """A turn under way: an async context manager, and an async iterator of its events, each once.

    Leaving the context before the end cancels the turn, unless `cancel_on_exit` is false.

    Attributes:
        turn_id: The turn's id.
        missed: How many events of the turn are known to have been lost, or dropped since they were read too slowly. The
            answer is complete in any case.
    """

    def __init__(
        self,
        client: TurnClient,
        request: Request,
        *,
        buffer_limit: int,
        cancel_on_exit: bool = True,
        by_reply: bool = False,
    ) -> None:
        self.turn_id = request.turn_id
        self.missed = 0
        self._client = client
        self._request = request
        self._buffer_limit = buffer_limit
        self._cancel_on_exit = cancel_on_exit
        self._by_reply = by_reply
        self._reader = TurnReader(request.turn_id, request.workspace)
        self._inbox: deque[TurnEvent] = deque()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._failure: Exception | None = None
        self._is_abandoned = False
        # What the client keeps of it.
        self._sent_on: Link | None = None
        self._cancel_at: float | None = None
        self._ask_again_at: float | None = None
        self._ask_pause = 0.0

    async def __aenter__(self) -> Self:
        await self._client._start(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended.is_set():
            return
        await self._client._leave(self)

    def __aiter__(self) -> AsyncIterator[TurnEvent]:
        return self

    async def __anext__(self) -> TurnEvent:
        while not self._inbox:
            if self._failure is not None:
                raise self._failure
            if self._ended.is_set():
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._inbox.popleft()

    async def answer(self) -> Answer:
        """Waits for the end. Raises a `TurnFailed` unless the turn came to its end.

        Of a turn that is awaited only and not iterated over, no more than a bounded number of events is kept.
        """
        await self._ended.wait()
        if self._reader.end is None:
            raise self._failure or ClientClosed("the client was closed")
        return self._reader.answer(self._reader.end)

    async def cancel(self) -> None:
        """Asks the workers to cancel the turn, again and again until it has ended. Read on: its end still comes."""
        await self._client._cancel(self)

    def _deliver(self, event: TurnEvent) -> None:
        taken = self._reader.take(event)
        if taken is None:
            return
        self._ask_again_at = None
        self.missed += taken.missed
        if taken.restarted:
            self._keep(Restarted(**_envelope(event)))
        self._keep(event)
        if isinstance(event, MessageEnd):
            self._ended.set()
        self._changed.set()

    def _deliver_reply(self, end: MessageEnd, error: ErrorDetail | None) -> None:
        """The end alone. It may come twice."""
        if self._reader.end is None:
            self._reader.error = error
            self._deliver(end)

    def _keep(self, event: TurnEvent) -> None:
        """A slow reader loses pieces, never a start, a restart or the end, and delays no other reader."""
        if self._buffer_limit == 0:
            return
        if len(self._inbox) < self._buffer_limit or isinstance(event, _ALWAYS_KEPT):
            self._inbox.append(event)
        else:
            self.missed += 1

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._ended.set()
        self._changed.set()


_ALWAYS_KEPT = (MessageStart, Restarted, ErrorEvent, MessageEnd)


def _envelope(event: TurnEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("turn_id", "workspace", "attempt", "seq", "time", "raw")}
