"""Reads a turn from the event log, a stream: what it kept, and then what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from aio_pika.abc import AbstractIncomingMessage

from .errors import BrokerRefused, BrokerUnavailable, NoEventLog, TurnNotInLog
from .events import MessageEnd, Restarted, TurnEvent, parse_event
from .link import Link, LinkLost, NotFound
from .reader import Answer, TurnReader

PREFETCH = 200
MAX_CHUNK = 65_535
"""A chunk of a stream, which is delivered whole, has no more messages."""
QUIET_S = 1.0
"""After the newest message: what stands in one chunk with it comes at once."""
SILENT_S = 10.0
"""No message comes: the log is empty, or older than what is asked for."""
RECONNECT_PAUSE_S = 1.0


class TurnTail:
    """A turn in the event log: an async context manager, and an async iterator of its events, each once."""

    def __init__(
        self,
        url: str,
        queue: str,
        reader: TurnReader,
        *,
        since: timedelta | None,
        wait: bool,
        on_status: Callable[[str], None],
    ) -> None:
        self.turn_id = reader.turn_id
        self.missed = 0
        self._url = url
        self._queue = queue
        self._reader = reader
        self._from: Any = "first" if since is None else datetime.now(UTC) - since
        self._wait = wait
        self._on_status = on_status
        self._next: int | None = None  # the first message that was not read
        self._found = False
        self._caught_up = False
        self._events = self._read()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._events.aclose()

    def __aiter__(self) -> AsyncIterator[TurnEvent]:
        return self

    async def __anext__(self) -> TurnEvent:
        return await self._events.__anext__()

    async def answer(self) -> Answer:
        """Reads to the end. Raises a `TurnFailed` unless the turn came to its end."""
        async for _ in self:
            pass
        if self._reader.end is None:
            raise TurnNotInLog(f"the end of turn {self.turn_id} was not read")
        return self._reader.answer(self._reader.end)

    async def _read(self) -> AsyncGenerator[TurnEvent, None]:
        lost = False
        while self._reader.end is None:
            link = None
            try:
                link = await Link.open(self._url, "codex_turns tail")
                async for event in self._read_on(link):
                    lost = False
                    yield event
            except (LinkLost, BrokerUnavailable) as error:
                if self._next is None:
                    raise BrokerUnavailable(str(error)) from error
                if not lost:
                    self._on_status(f"lost the broker: {error}")
                lost = True
                await asyncio.sleep(RECONNECT_PAUSE_S)
            finally:
                # Without rejecting what was delivered, and ignoring errors: see "The event log" in docs/EVENTS.md.
                if link is not None:
                    await link.close()

    async def _read_on(self, link: Link) -> AsyncGenerator[TurnEvent, None]:
        newest, filter_value = await self._newest(link)
        arguments = {
            "x-stream-offset": self._from if self._next is None else self._next,
            "x-stream-filter": [self.turn_id] if filter_value is None else [self.turn_id, filter_value],
            "x-stream-match-unfiltered": True,  # of workers that set no filter value yet
        }
        try:
            messages = await self._consume(link, arguments)
        except NoEventLog:
            raise
        except BrokerRefused:  # a broker that could filter, with filters not enabled
            messages = await self._consume(link, {"x-stream-offset": arguments["x-stream-offset"]})
        patience = QUIET_S if newest is None else SILENT_S
        while self._reader.end is None:
            message = await self._next_message(link, messages, None if self._caught_up else patience)
            if message is None:
                self._catch_up()
                continue
            offset = _offset(message)
            patience = _patience(offset, newest)
            with suppress(Exception):  # that the link is lost is noticed by the next read
                await message.ack()
            if self._next is not None and offset < self._next:
                continue  # the first messages of a connection may be older than what was asked for
            self._next = offset + 1
            event = parse_event(message.body)
            taken = None if event is None else self._reader.take(event)
            if event is None or taken is None:
                continue
            self._found = True
            self.missed += taken.missed
            if taken.restarted:
                yield Restarted(
                    turn_id=event.turn_id,
                    workspace=event.workspace,
                    attempt=event.attempt,
                    seq=event.seq,
                    time=event.time,
                    raw=event.raw,
                )
            yield event
            if isinstance(event, MessageEnd):
                return

    def _catch_up(self) -> None:
        self._caught_up = True
        if not self._found and not self._wait:
            raise TurnNotInLog(
                f"the event log has nothing of turn {self.turn_id}: it has not started, is older than the log, or never was"
            )

    async def _newest(self, link: Link) -> tuple[int | None, str | None]:
        """A filtered stream is silent without a match. Once its newest message has come by, everything has."""
        messages: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        channel = await self._consumer(link, {"x-stream-offset": "last"}, messages)
        message = await self._next_message(link, messages, SILENT_S)
        await link.close_channel(channel)
        if message is None:
            return None, None
        value = message.headers.get("x-stream-filter-value")
        return _offset(message), value if isinstance(value, str) else None

    async def _consume(self, link: Link, arguments: dict[str, Any]) -> asyncio.Queue[AbstractIncomingMessage]:
        messages: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await self._consumer(link, arguments, messages)
        return messages

    async def _consumer(self, link: Link, arguments: dict[str, Any], messages: asyncio.Queue[AbstractIncomingMessage]) -> Any:
        async def put(message: AbstractIncomingMessage) -> None:
            messages.put_nowait(message)  # bounded by the prefetch, since each is acked when it is read

        try:
            return await link.consume(self._queue, PREFETCH, put, arguments)
        except NotFound as error:
            raise NoEventLog(f"there is no event log: {error}") from error

    async def _next_message(
        self, link: Link, messages: asyncio.Queue[AbstractIncomingMessage], patience: float | None
    ) -> AbstractIncomingMessage | None:
        """Returns `None` if no message has come for that long."""
        if not messages.empty():
            return messages.get_nowait()
        get = asyncio.ensure_future(messages.get())
        try:
            await asyncio.wait((get, link.lost), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if get.done():
                return get.result()
            if link.lost.done():
                raise LinkLost(link.lost.result())
            return None
        finally:
            get.cancel()


def _offset(message: AbstractIncomingMessage) -> int:
    offset = message.headers.get("x-stream-offset")
    return offset if isinstance(offset, int) else 0


def _patience(offset: int, newest: int | None) -> float:
    if newest is None or offset < newest:
        return SILENT_S
    return 0.0 if offset > newest + MAX_CHUNK else QUIET_S
