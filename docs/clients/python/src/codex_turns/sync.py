"""The same client without asyncio: it runs in a thread of its own.

    with TurnClient("amqp://user:password@broker:5672/%2f") as client:
        print(client.run("Fix the failing test", "acme/website").text)

It may be used by several threads at a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from . import client as asynchronous
from .events import TurnEvent
from .log import TurnTail as AsyncTurnTail
from .positions import TurnPosition
from .reader import Answer
from .requests import Prompt, RequestOptions
from .turn import TurnStream as AsyncTurnStream

T = TypeVar("T")


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="codex_turns", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """An exception in the waiting thread, such as `KeyboardInterrupt`, cancels the work and waits for its end."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                # What was cancelled cleans up, for example cancels its turn.
                asyncio.run_coroutine_threadsafe(_settled(), self._loop).result()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _settled() -> None:
    """Until what was cancelled before has ended, bounded by what it allows itself."""
    own = asyncio.current_task()
    cancelled = [task for task in asyncio.all_tasks() if task is not own and task.cancelling() > 0]
    if cancelled:
        await asyncio.wait(cancelled, timeout=2 * asynchronous.LEAVE_AFTER_S)


class TurnStream:
    """As `codex_turns.TurnStream`: a context manager, and an iterator of the turn's events."""

    def __init__(self, loop: _Loop, turn: AsyncTurnStream) -> None:
        self.turn_id = turn.turn_id
        self._loop = loop
        self._turn = turn

    @property
    def missed(self) -> int:
        return self._turn.missed

    def __enter__(self) -> Self:
        self._loop.run(self._turn.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.run(self._turn.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[TurnEvent]:
        return self

    def __next__(self) -> TurnEvent:
        try:
            return self._loop.run(self._turn.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def answer(self) -> Answer:
        return self._loop.run(self._turn.answer())

    def cancel(self) -> None:
        self._loop.run(self._turn.cancel())


class TurnTail:
    """As `codex_turns.TurnTail`: a context manager, and an iterator of the turn's events."""

    def __init__(self, loop: _Loop, turn: AsyncTurnTail) -> None:
        self.turn_id = turn.turn_id
        self._loop = loop
        self._turn = turn

    @property
    def missed(self) -> int:
        return self._turn.missed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.run(self._turn.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[TurnEvent]:
        return self

    def __next__(self) -> TurnEvent:
        try:
            return self._loop.run(self._turn.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def answer(self) -> Answer:
        return self._loop.run(self._turn.answer())


class TurnClient:
    """As `codex_turns.TurnClient`, with the same options."""

    def __init__(self, url: str, **options: Any) -> None:
        self._client = asynchronous.TurnClient(url, **options)
        self._loop: _Loop | None = None

    def __enter__(self) -> Self:
        self._loop = _Loop()
        try:
            self._loop.run(self._client.connect())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        loop = self._running()
        try:
            loop.run(self._client.close())
        finally:
            loop.close()

    def submit(self, prompt: Prompt, workspace: str, **options: Unpack[RequestOptions]) -> str:
        return self._running().run(self._client.submit(prompt, workspace, **options))

    def run(self, prompt: Prompt, workspace: str, *, by_reply: bool = False, **options: Unpack[RequestOptions]) -> Answer:
        """As `codex_turns.TurnClient.run`. `KeyboardInterrupt` cancels the turn."""
        return self._running().run(self._client.run(prompt, workspace, by_reply=by_reply, **options))

    def describe(self, turn_id: str, workspace: str, *, timeout_s: float = asynchronous.DESCRIBE_TIMEOUT_S) -> TurnPosition:
        return self._running().run(self._client.describe(turn_id, workspace, timeout_s=timeout_s))

    def stream(
        self, prompt: Prompt, workspace: str, *, cancel_on_exit: bool = True, **options: Unpack[RequestOptions]
    ) -> TurnStream:
        loop = self._running()

        async def make() -> AsyncTurnStream:
            return self._client.stream(prompt, workspace, cancel_on_exit=cancel_on_exit, **options)

        return TurnStream(loop, loop.run(make()))

    def cancel(self, turn_id: str, workspace: str | None = None) -> None:
        self._running().run(self._client.cancel(turn_id, workspace))

    def tail(
        self, turn_id: str, workspace: str | None = None, *, since: timedelta | None = None, wait: bool = False
    ) -> TurnTail:
        return TurnTail(self._running(), self._client.tail(turn_id, workspace, since=since, wait=wait))

    def _running(self) -> _Loop:
        if self._loop is None:
            raise RuntimeError("the client is not connected: use it as a context manager")
        return self._loop


__all__ = ["TurnClient", "TurnStream", "TurnTail"]
