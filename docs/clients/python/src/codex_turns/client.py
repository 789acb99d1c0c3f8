"""Sends turns and reads their answers: many at a time over one connection and one queue."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, Unpack

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from yarl import URL

from .errors import BrokerRefused, BrokerUnavailable, ClientClosed, NoAnswer, NoWorker, TurnClientError
from .events import MessageEnd, parse_event
from .link import Call, Link, LinkLost, Names
from .log import TurnTail
from .positions import TurnPosition, parse_position
from .reader import Answer, TurnReader, reply_error
from .requests import Prompt, RequestOptions, encode_request
from .turn import TurnStream

REQUEST_KEY = "turn"
CANCEL_PAUSE_S = 5.0
UNHEARD_PAUSE_S = 2.0
ASK_AGAIN_S = 5.0
ASK_AGAIN_AT_MOST_S = 300.0
REPLY_AGAIN_S = 30.0
DESCRIBE_AGAIN_S = 3.0
DESCRIBE_TIMEOUT_S = 15.0
RECONNECT_PAUSE_S = 0.2
RECONNECT_PAUSE_AT_MOST_S = 10.0
REFUSALS_AT_MOST = 5
LEAVE_AFTER_S = 5.0
TICK_S = 0.5

OnStatus = Callable[[str], None]
_log = logging.getLogger("codex_turns")


class TurnClient:
    """A connection to the broker, for any number of turns at a time.

    It reconnects by itself, and sends again what may not have arrived: a turn runs once, however often it is sent.

    Args:
        url: `amqp://user:password@host:5672/vhost`, or `amqps://…`; `%2f` is the virtual host `/`.
        prefix: The workers' setting `TURN_WORKER_PREFIX`.
        names: The names of the workers' exchanges, if they do not follow from the prefix.
        queue: The name of the queue for events. By default it is the user's name, a dot and a UUID, and the queue is deleted
            when the client is closed. A queue with a name of yours is kept: events wait in it while the process is down.
        queue_lifetime_s: How long the broker keeps a queue that is not read.
        prefetch: How many events may be on their way to this client.
        buffer_limit: How many events of a turn are kept for a reader that is slower than they come. Past it, pieces are
            dropped and counted in `TurnStream.missed`, never the end.
        on_status: Gets a line of text when the connection is lost and back, and when no worker hears a cancel. By default
            these are logged by the logger `codex_turns`.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "codex",
        names: Names | None = None,
        queue: str | None = None,
        queue_lifetime_s: int = 600,
        prefetch: int = 200,
        buffer_limit: int = 10_000,
        on_status: OnStatus | None = None,
    ) -> None:
        self._url = url
        self._names = names or Names.of_prefix(prefix)
        self._queue = queue
        self._own_queue = self._new_queue()
        self._queue_lifetime_s = queue_lifetime_s
        self._prefetch = prefetch
        self._buffer_limit = buffer_limit
        self._on_status: OnStatus = on_status or _log.warning
        self._link: asyncio.Future[Link] | None = None
        self._is_closed = False
        self._reading = asyncio.Lock()
        self._reads_on: Link | None = None
        self._wants_to_read = False
        self._consumer: AbstractChannel | None = None
        self._turns: dict[str, TurnStream] = {}
        self._questions: dict[str, asyncio.Future[TurnPosition]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connects; later connections come by themselves. Raises `BrokerUnavailable`."""
        if self._link is not None:
            raise RuntimeError("the client is connected already, or closed")
        self._link = asyncio.get_running_loop().create_future()
        try:
            link = await Link.open(self._url, "codex_turns")
        except BaseException:
            self._link = None
            raise
        self._link.set_result(link)
        self._spawn(self._guarded(self._supervise(link)))
        self._spawn(self._guarded(self._tick()))

    async def close(self) -> None:
        """Leaves. Turns that have not ended go on, and `ClientClosed` is raised to those who read them."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for turn in list(self._turns.values()):
            turn._fail(ClientClosed(f"the client was closed before turn {turn.turn_id} ended"))
        self._turns.clear()
        if self._link is None:
            return
        if not self._link.done():  # lost, and not back
            self._link.set_exception(ClientClosed("the client is closed"))
            self._link.exception()  # read, so that asyncio does not report it
            return
        if self._link.exception() is not None:
            return
        link = self._link.result()
        if self._consumer is not None and self._queue is None:
            with suppress(LinkLost, TurnClientError, TimeoutError):
                async with asyncio.timeout(LEAVE_AFTER_S):
                    await link.close_channel(self._consumer)
                    await link.delete(self._own_queue)
        await link.close()

    async def submit(self, prompt: Prompt, workspace: str, **options: Unpack[RequestOptions]) -> str:
        """Sends a turn without reading its events. Returns its id once the broker has accepted it."""
        request = encode_request(prompt, workspace, options)
        while True:
            link = await self._connected()
            with suppress(LinkLost):
                await link.publish(self._names.requests, REQUEST_KEY, request.body, request.turn_id)
                return request.turn_id

    async def run(self, prompt: Prompt, workspace: str, *, by_reply: bool = False, **options: Unpack[RequestOptions]) -> Answer:
        """Sends a turn and waits for its answer. Raises a `TurnFailed` unless the turn came to its end.

        Cancelling the task that waits (also by `asyncio.timeout`) cancels the turn.

        `by_reply` has only the end sent, by `reply_to`: no queue and no binding is needed. A reply is sent once at most, so
        the request is sent again under its id, which runs no turn twice, after a lost connection and every few minutes.
        """
        request = encode_request(prompt, workspace, options)
        async with TurnStream(self, request, buffer_limit=0, by_reply=by_reply) as turn:
            return await turn.answer()

    def stream(
        self, prompt: Prompt, workspace: str, *, cancel_on_exit: bool = True, **options: Unpack[RequestOptions]
    ) -> TurnStream:
        """Sends a turn, when it is entered as a context, and reads its events."""
        request = encode_request(prompt, workspace, options)
        return TurnStream(self, request, buffer_limit=self._buffer_limit, cancel_on_exit=cancel_on_exit)

    async def cancel(self, turn_id: str, workspace: str | None = None) -> None:
        """Cancels a turn that anyone sent; without a workspace, in all of them. Raises `NoWorker` if no worker hears it.

        A worker that is not connected at the moment misses it. `TurnStream.cancel` repeats it until the end.
        """
        while True:
            link = await self._connected()
            with suppress(LinkLost):
                return await self._publish_cancel(link, turn_id, workspace)

    async def describe(self, turn_id: str, workspace: str, *, timeout_s: float = DESCRIBE_TIMEOUT_S) -> TurnPosition:
        """Asks where a turn is that anyone sent: `TurnWaiting`, `TurnRunning`, `TurnEnded` or `TurnUnknown`.

        The request is not needed, and no turn is run. A turn of another workspace is as unknown as one that never was.
        Raises `NoWorker` if no worker is connected, and `NoAnswer` if there is no answer in time.
        """
        question = {"action": "describe", "turn_id": turn_id, "workspace": workspace}
        call = Call(str(uuid.uuid4()), self._on_reply)
        answer: asyncio.Future[TurnPosition] = asyncio.get_running_loop().create_future()
        self._questions[call.id] = answer
        try:
            async with asyncio.timeout(timeout_s):
                while not answer.done():
                    link = await self._connected()
                    with suppress(LinkLost):
                        await link.publish(self._names.control, "", json.dumps(question).encode(), call=call)
                        # Workers drop what is too much, and don't answer while they start.
                        await asyncio.wait((answer, link.lost), timeout=DESCRIBE_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            if not answer.done():
                raise NoAnswer(
                    f"no worker has answered within {timeout_s:g} s where turn {turn_id} is: none is ready, "
                    "there are too many questions, or the workers are of an older version"
                ) from None
        finally:
            del self._questions[call.id]
        return answer.result()

    def tail(
        self, turn_id: str, workspace: str | None = None, *, since: timedelta | None = None, wait: bool = False
    ) -> TurnTail:
        """Reads a turn from the event log, from its beginning, and follows it to its end.

        It has a connection of its own. Without a workspace, that of the first event counts. `since` reads only what is
        younger, which is faster. `wait` waits for a turn that is not in the log yet; without it, `TurnNotInLog` is
        raised.
        """
        reader = TurnReader(turn_id, workspace)
        return TurnTail(self._url, self._names.log, reader, since=since, wait=wait, on_status=self._on_status)

    # --- turns ---------------------------------------------------------------------------------------------------------

    async def _start(self, turn: TurnStream) -> None:
        other = self._turns.get(turn.turn_id)
        if other is not None and not other._is_abandoned:
            raise ValueError(f"turn {turn.turn_id} is being read already")
        self._turns[turn.turn_id] = turn
        try:
            while True:
                with suppress(LinkLost):
                    link = await (self._connected() if turn._by_reply else self._link_for_reading())
                    # After a lost link, all turns are sent on the next one.
                    if turn._sent_on is not link:
                        if turn._request.may_be_known or turn._by_reply:
                            self._ask_again_later(turn)
                        await self._send(link, turn)
                    return
        except asyncio.CancelledError:
            await self._leave(turn)  # the broker may have it
            raise
        except BaseException:
            self._forget(turn)
            raise

    async def _send(self, link: Link, turn: TurnStream) -> None:
        """Binds before it publishes: events that no queue is bound for are gone."""
        turn._sent_on = link
        if not turn._by_reply:
            await link.bind(self._own_queue, self._names.events, turn.turn_id)
        await self._publish(link, turn)

    async def _publish(self, link: Link, turn: TurnStream) -> None:
        call = Call(turn.turn_id, self._on_reply) if turn._by_reply else None
        await link.publish(self._names.requests, REQUEST_KEY, turn._request.body, turn.turn_id, call)

    async def _cancel(self, turn: TurnStream) -> None:
        loop = asyncio.get_running_loop()
        turn._cancel_at = loop.time() + CANCEL_PAUSE_S
        link = turn._sent_on
        if turn._ended.is_set() or link is None:
            return  # it is not sent yet, and the cancel follows it
        try:
            workspace = turn._request.workspace
            # A path means something to a worker only.
            await self._publish_cancel(link, turn.turn_id, None if workspace.startswith("/") else workspace)
        except NoWorker:
            turn._cancel_at = loop.time() + UNHEARD_PAUSE_S
            self._on_status("no worker is connected, so the cancel is repeated until one is")
        except LinkLost:
            turn._cancel_at = 0
        except BrokerRefused as error:
            self._on_status(str(error))

    async def _publish_cancel(self, link: Link, turn_id: str, workspace: str | None) -> None:
        message = {"action": "cancel", "turn_id": turn_id}
        if workspace is not None:
            message["workspace"] = workspace
        await link.publish(self._names.control, "", json.dumps(message).encode())

    async def _leave(self, turn: TurnStream) -> None:
        """Cancels a turn that has no reader any more, and goes on with it in the background until it has ended."""
        turn._is_abandoned = True
        turn._buffer_limit = 0
        turn._inbox.clear()
        if turn._cancel_on_exit and turn._sent_on is not None:
            await asyncio.wait((self._spawn(self._cancel(turn)),), timeout=LEAVE_AFTER_S)
        else:
            self._forget(turn)

    def _forget(self, turn: TurnStream) -> None:
        if self._turns.get(turn.turn_id) is turn:
            del self._turns[turn.turn_id]
            link = turn._sent_on
            if link is not None and not link.lost.done() and not turn._by_reply:
                self._spawn(self._unbind(link, turn.turn_id))

    async def _unbind(self, link: Link, turn_id: str) -> None:
        with suppress(LinkLost, BrokerRefused):
            if turn_id not in self._turns:  # sent again meanwhile
                await link.unbind(self._own_queue, self._names.events, turn_id)

    def _fail(self, turn: TurnStream, error: Exception) -> None:
        turn._fail(error)
        self._forget(turn)

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        event = parse_event(message.body)
        turn = None if event is None else self._turns.get(event.turn_id)
        if event is not None and turn is not None:
            turn._deliver(event)
            if turn._ended.is_set():
                self._forget(turn)
        with suppress(Exception):  # one that can't be acked comes again, and is dropped then
            await message.ack()

    async def _on_reply(self, message: AbstractIncomingMessage) -> None:
        question = self._questions.get(message.correlation_id or "")
        if question is not None:
            position = parse_position(message.body)
            if position is not None and not question.done():
                question.set_result(position)
            return
        end = parse_event(message.body)
        turn = self._turns.get(message.correlation_id or "")
        if isinstance(end, MessageEnd) and turn is not None and turn._by_reply:
            turn._deliver_reply(end, reply_error(message.headers))
            if turn._ended.is_set():
                self._forget(turn)

    # --- connections ---------------------------------------------------------------------------------------------------

    async def _connected(self) -> Link:
        while True:
            if self._is_closed:
                raise ClientClosed("the client is closed")
            if self._link is None:
                raise RuntimeError("the client is not connected: use it as a context manager, or call connect()")
            link = await asyncio.shield(self._link)
            if not link.lost.done():
                return link
            await asyncio.sleep(0)  # until it is noticed

    async def _link_for_reading(self) -> Link:
        async with self._reading:
            link = await self._connected()
            if self._reads_on is not link:
                self._wants_to_read = True
                await link.declare(self._own_queue, self._queue_lifetime_s)
                self._consumer = await link.consume(self._own_queue, self._prefetch, self._on_message)
                self._reads_on = link
            return link

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """What is not foreseen ends the client, rather than leave its callers waiting."""
        try:
            await work
        except Exception as error:
            _log.exception("the client can't go on")
            self._is_closed = True
            for turn in list(self._turns.values()):
                self._fail(turn, error)
            if self._link is not None and not self._link.done():
                self._link.set_exception(error)

    async def _supervise(self, link: Link) -> None:
        while True:
            reason = await asyncio.shield(link.lost)
            self._link = asyncio.get_running_loop().create_future()
            self._on_status(f"lost the broker: {reason}")
            await link.close()
            link = await self._reconnect()
            self._link.set_result(link)
            self._on_status("connected again")

    async def _reconnect(self) -> Link:
        pause, refusals = RECONNECT_PAUSE_S, 0
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, RECONNECT_PAUSE_AT_MOST_S)
            link = None
            try:
                link = await Link.open(self._url, "codex_turns")
                await self._resume(link)
            except (BrokerUnavailable, LinkLost) as error:
                _log.debug("not connected yet: %r", error)
            except BrokerRefused as error:
                refusals += 1
                # The queue may be on a node that is down.
                self._own_queue = self._new_queue()
                if refusals == REFUSALS_AT_MOST:
                    for turn in list(self._turns.values()):
                        self._fail(turn, error)
                    refusals = 0
            except asyncio.CancelledError:
                if link is not None:
                    await link.close()
                raise
            else:
                return link
            if link is not None:
                await link.close()

    async def _resume(self, link: Link) -> None:
        """Sends all turns again before it reads on: their ends may have been missed, and come once more then."""
        if self._wants_to_read:
            await link.declare(self._own_queue, self._queue_lifetime_s)
        await asyncio.gather(*(self._resend(link, turn) for turn in list(self._turns.values())))
        if not self._wants_to_read:
            return
        self._consumer = await link.consume(self._own_queue, self._prefetch, self._on_message)
        self._reads_on = link

    async def _resend(self, link: Link, turn: TurnStream) -> None:
        try:
            await self._send(link, turn)
        except BrokerRefused as error:
            self._fail(turn, error)
            return
        self._ask_again_later(turn)
        if turn._cancel_at is not None:
            turn._cancel_at = 0

    def _ask_again_later(self, turn: TurnStream) -> None:
        """Unless an event comes before that."""
        turn._ask_pause = REPLY_AGAIN_S if turn._by_reply else ASK_AGAIN_S
        turn._ask_again_at = asyncio.get_running_loop().time() + turn._ask_pause

    async def _tick(self) -> None:
        """Repeats cancels, and requests that were not the first of their turn and got no event: they are dropped as
        duplicates while the workers have not yet noted the turn's end, which may have been published already.
        """
        while True:
            await asyncio.sleep(TICK_S)
            now = asyncio.get_running_loop().time()
            for turn in list(self._turns.values()):
                try:
                    await self._remind(turn, now)
                except LinkLost:
                    break
                except BrokerRefused as error:
                    self._fail(turn, error)

    async def _remind(self, turn: TurnStream, now: float) -> None:
        link = turn._sent_on
        if link is None or link.lost.done():
            return
        if turn._cancel_at is not None and now >= turn._cancel_at:
            await self._cancel(turn)
        if turn._ask_again_at is not None and now >= turn._ask_again_at:
            turn._ask_pause = min(2 * turn._ask_pause, ASK_AGAIN_AT_MOST_S)
            turn._ask_again_at = now + turn._ask_pause
            await self._publish(link, turn)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _new_queue(self) -> str:
        return self._queue or f"{URL(self._url).user or 'guest'}.{uuid.uuid4()}"
