"""One connection to the broker. It is never repaired: when it is lost, another takes its place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, DeliveryMode
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AuthenticationError,
    ChannelClosed,
    ChannelNotFoundEntity,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)

from .errors import BrokerRefused, BrokerUnavailable, NoWorker, TurnClientError

CONNECT_TIMEOUT_S = 30
CLOSE_TIMEOUT_S = 5
T = TypeVar("T")
OnMessage = Callable[[AbstractIncomingMessage], Awaitable[None]]
DIRECT_REPLY = "amq.rabbitmq.reply-to"


class LinkLost(Exception):
    """The connection is gone. What was under way on it may have happened or not."""


class NotFound(BrokerRefused):
    """The broker has no queue or exchange of that name."""


@dataclass(frozen=True, slots=True)
class Call:
    """A message that is answered, by its correlation id."""

    id: str
    on_reply: OnMessage


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the workers' objects on the broker."""

    requests: str
    events: str
    control: str
    log: str

    @classmethod
    def of_prefix(cls, prefix: str) -> Names:
        """`prefix` is the workers' setting `TURN_WORKER_PREFIX`."""
        return cls(f"{prefix}.requests", f"{prefix}.events", f"{prefix}.control", f"{prefix}.events.log")


class Link:
    """Once `lost` is done, with the reason, everything on it raises `LinkLost`."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._publishing: AbstractChannel | None = None
        self._setting_up: AbstractChannel | None = None
        self._calling: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._setup = asyncio.Lock()
        self._calls: set[asyncio.Future[Any]] = set()
        connection.close_callbacks.add(self._on_closed)

    @classmethod
    async def open(cls, url: str, name: str) -> Link:
        """Raises `BrokerUnavailable`."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await aio_pika.connect(url, client_properties={"connection_name": name})
        except (*CONNECTION_EXCEPTIONS, TimeoutError, asyncio.IncompleteReadError) as error:
            what = "refuses the login" if isinstance(error, _LOGIN) else "can't be reached"
            raise BrokerUnavailable(f"the broker {what}: {error!r}") from error
        return cls(connection)

    async def close(self) -> None:
        """Never raises: what is closed is needed no more."""
        self._lose("closed")
        with suppress(Exception, asyncio.CancelledError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._connection.close()

    async def publish(
        self, exchange: str, routing_key: str, body: bytes, message_id: str | None = None, call: Call | None = None
    ) -> None:
        """Returns when the broker has it. Raises `NoWorker` if no queue takes it, `BrokerRefused` if the broker does not.

        With a `call`, the answer is sent back by the broker's direct reply, for as long as the link lasts.
        """
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=message_id,
            timestamp=datetime.now(UTC),
            correlation_id=None if call is None else call.id,
            reply_to=None if call is None else DIRECT_REPLY,
        )

        async def publish() -> None:
            channel = await (self._channel_for_publishing() if call is None else self._channel_for_calls(call.on_reply))
            target = await channel.get_exchange(exchange, ensure=False)
            await target.publish(message, routing_key, mandatory=True)

        await self._call(publish(), f"publish to {exchange}")

    async def declare(self, queue: str, lifetime_s: int) -> None:
        """Declares a queue for events. It outlives the connection: events that come meanwhile wait in it."""

        async def declare(channel: AbstractChannel) -> None:
            await channel.declare_queue(queue, durable=True, arguments={"x-expires": lifetime_s * 1000})

        await self._set_up(declare)

    async def delete(self, queue: str) -> None:
        async def delete(channel: AbstractChannel) -> None:
            await channel.queue_delete(queue)

        await self._set_up(delete)

    async def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        async def bind(channel: AbstractChannel) -> None:
            await (await channel.get_queue(queue, ensure=False)).bind(exchange, routing_key)

        await self._set_up(bind)

    async def unbind(self, queue: str, exchange: str, routing_key: str) -> None:
        async def unbind(channel: AbstractChannel) -> None:
            await (await channel.get_queue(queue, ensure=False)).unbind(exchange, routing_key)

        await self._set_up(unbind)

    async def consume(
        self, queue: str, prefetch: int, on_message: OnMessage, arguments: Mapping[str, Any] | None = None
    ) -> AbstractChannel:
        """Reads a queue, with acks; the end of the consumer is the end of the link. Returns the channel it has to itself.

        Messages come to `on_message` in their order as long as it does not await anything before it has taken them.
        """

        async def consume() -> AbstractChannel:
            channel = await self._open_channel()
            await channel.set_qos(prefetch_count=prefetch)
            target = await channel.get_queue(queue, ensure=False)
            await target.consume(on_message, arguments=None if arguments is None else dict(arguments))
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(self._on_consumer_cancelled)
            channel.close_callbacks.add(self._on_closed)
            return channel

        return await self._call(consume(), f"consume {queue}")

    async def close_channel(self, channel: AbstractChannel) -> None:
        """Ends a consumer without ending the link. Never rejects what was delivered: streams do not take that."""
        channel.close_callbacks.discard(self._on_closed)
        with suppress(TurnClientError):
            await self._call(_close(channel), "close a channel")

    async def _set_up(self, operation: Callable[[AbstractChannel], Coroutine[Any, Any, object]]) -> None:
        """One at a time, so that a refusal, which closes the channel, is of the operation that caused it."""

        async def run() -> None:
            async with self._setup:
                if self._setting_up is None or self._setting_up.is_closed:
                    self._setting_up = await self._open_channel()
                await operation(self._setting_up)

        await self._call(run(), "set up the queue")

    async def _channel_for_publishing(self) -> AbstractChannel:
        async with self._opening:
            if self._publishing is None or self._publishing.is_closed:
                self._publishing = await self._open_channel()
            return self._publishing

    async def _channel_for_calls(self, on_reply: OnMessage) -> AbstractChannel:
        """The broker sends direct replies to the channel on which the call was published."""
        async with self._opening:
            if self._calling is None or self._calling.is_closed:
                channel = await self._open_channel()
                await (await channel.get_queue(DIRECT_REPLY, ensure=False)).consume(on_reply, no_ack=True)
                self._calling = channel
            return self._calling

    async def _open_channel(self) -> AbstractChannel:
        channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize()
        return channel

    async def _call(self, operation: Coroutine[Any, Any, T], what: str) -> T:
        """Waits for the operation or the loss of the link, the first of the two.

        The operation has a task of its own, for two reasons: the libraries cancel what waits on a connection that closes,
        which must not look like a cancellation of the caller; and a caller that is cancelled must not interrupt it, since
        they close a channel on which that happens.
        """
        if self.lost.done():
            operation.close()
            raise LinkLost(self.lost.result())
        call: asyncio.Future[T] = asyncio.ensure_future(operation)
        self._calls.add(call)
        call.add_done_callback(self._called)
        await asyncio.wait((call, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            raise LinkLost(self.lost.result())
        error = LinkLost("the channel was closed") if call.cancelled() else call.exception()
        if error is None:
            return call.result()
        meaning = _meaning(error, what)
        if isinstance(meaning, LinkLost):
            self._lose(str(meaning))
        raise meaning from error

    def _called(self, call: asyncio.Future[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # read, so that asyncio does not report it

    def _on_consumer_cancelled(self, _frame: object) -> None:
        self._lose("the broker has ended the consumer")

    def _on_closed(self, _sender: object, error: BaseException | None) -> None:
        self._lose(repr(error))

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)


async def _close(channel: AbstractChannel) -> None:
    await channel.close()


_LOGIN = (AuthenticationError, ProbableAuthenticationError)


def _meaning(error: BaseException, what: str) -> BaseException:
    match error:
        case ChannelNotFoundEntity():
            return NotFound(f"can't {what}: {error}")
        case ChannelClosed() if error.args and error.args[0] is not None:
            return BrokerRefused(f"can't {what}: {error}")
        case PublishError():
            return NoWorker(f"can't {what}: no queue is bound to it")
        case DeliveryError():
            return BrokerRefused(f"can't {what}: the broker has refused it")
        case TurnClientError() | LinkLost():
            return error
        case _ if isinstance(error, (*CONNECTION_EXCEPTIONS, asyncio.InvalidStateError)):
            return LinkLost(repr(error))
        case _:
            return error
