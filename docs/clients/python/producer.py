#!/usr/bin/env python3
"""Sends prompts to a workspace, each a turn of the same conversation, and prints the answers as they come.

    AMQP_URL=amqp://… python3 producer.py WORKSPACE PROMPT [PROMPT…]
    AMQP_URL=amqp://… python3 producer.py --tail TURN_ID [WORKSPACE]

The second form comes late: it prints a turn from the event log, if the operator keeps one, and follows it to its end.

Ctrl-C cancels the turn; a second one leaves at once.  Exit status: 0 if every turn came to its end, 124 if one ran out
of time, 130 if it was cancelled, 2 for wrong arguments, 1 for everything else.
"""
import json
import os
import signal
import sys
import time
import uuid

import pika
from pika.exceptions import AMQPConnectionError, AMQPError, ChannelClosedByBroker, NackError, UnroutableError

EXIT_STATUS = {"end_turn": 0, "timeout": 124, "cancelled": 130}
QUEUE_LIFETIME_MS = 10 * 60 * 1000  # how long events wait for a reader that is gone
RECONNECT_PAUSE_S = 1
CANCEL_PAUSE_S = 5
REFUSALS = (UnroutableError, NackError, ChannelClosedByBroker)

interrupted = False


def say(text):
    print(text, file=sys.stderr, flush=True)


def publish(channel, exchange, routing_key, message):
    """Returns when the broker has it, and raises when it does not."""
    channel.basic_publish(
        exchange,
        routing_key,
        json.dumps(message),
        pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,  # survives a restart of the broker
            message_id=message["turn_id"],  # rejections are published under it, even if the body can't be read
            timestamp=int(time.time()),
        ),
        mandatory=True,
    )


def enqueue(channel, request):
    publish(channel, "codex.requests", "turn", request)


def cancel(channel, turn_id):
    try:
        publish(channel, "codex.control", "", {"action": "cancel", "turn_id": turn_id})
    except UnroutableError:
        say("no worker is connected, so the cancel is repeated until one is")


class Broker:
    """A connection, and a queue for events that outlives it: what comes while there is none waits there."""

    def __init__(self, url):
        self.parameters = pika.URLParameters(url)
        self.queue = f"{self.parameters.credentials.username}.{uuid.uuid4()}"
        self.connect()

    def connect(self):
        self.connection = pika.BlockingConnection(self.parameters)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.channel.basic_qos(prefetch_count=100)
        self.channel.queue_declare(self.queue, durable=True, arguments={"x-expires": QUEUE_LIFETIME_MS})

    def reconnect(self):
        while True:
            try:
                return self.connect()
            except (AMQPConnectionError, OSError):
                time.sleep(RECONNECT_PAUSE_S)

    def close(self):
        try:
            self.channel.queue_delete(self.queue)
            self.connection.close()
        except AMQPError:
            pass  # lost, and nobody needs it any more; the queue goes when its time is up


class Reader:
    """Shows the events of one turn, each once."""

    def __init__(self, turn_id, workspace=None):
        self.turn_id = turn_id
        # Without one, that of the first event is read; also with a path, which only a worker can tell the id of.
        self.workspace = None if workspace is None or workspace.startswith("/") else workspace
        self.stop_reason = None
        self.newest = (0, -1)
        self.item_id = None
        self.text = ""  # of the message that came last
        self.line_is_open = False

    def take(self, event):
        """Returns how the turn ended, once it has."""
        if event.get("turn_id") != self.turn_id or not self.is_ours(event.get("workspace")):
            return self.stop_reason
        place = (event["attempt"], event["seq"])
        if place <= self.newest:
            return self.stop_reason  # told before
        if event["attempt"] > self.newest[0] and self.newest[1] >= 0:
            self.begin_message(None)
            say(f"attempt {event['attempt']}: it starts again, forget the text so far")
        self.newest = place

        if event["type"] == "text_delta":
            if event["item_id"] != self.item_id:
                self.begin_message(event["item_id"])
            self.show(event["text"])
        elif event["type"] == "error":
            self.end_line()
            say(f"{event['error']['code']}: {event['error']['message']}")
        elif event["type"] == "message_end":
            if event.get("text", self.text) != self.text:  # pieces of it were missed
                self.begin_message(None)
                self.show(event["text"])
            self.end_line()
            say(f"{event['stop_reason']}, tokens: {json.dumps(event.get('usage'))}")
            self.stop_reason = event["stop_reason"]
        return self.stop_reason

    def is_ours(self, workspace):
        """Any producer can send a turn under our id, for a workspace of its own."""
        if not workspace:
            return True  # an older worker's event, or a rejection that could not tell it
        self.workspace = self.workspace or workspace
        return workspace == self.workspace

    def begin_message(self, item_id):
        self.end_line()
        self.item_id = item_id
        self.text = ""

    def show(self, text):
        print(text, end="", flush=True)
        self.text += text
        self.line_is_open = True

    def end_line(self):
        if self.line_is_open:
            print(flush=True)
        self.line_is_open = False


def follow(broker, request, reader):
    """Sends the turn and reads to its end.  Safe to call again: a turn runs once, however often it is sent."""
    channel, turn_id = broker.channel, request["turn_id"]
    # Bind before you publish: what is published while nobody is bound is gone.
    channel.queue_bind(broker.queue, "codex.events", routing_key=turn_id)
    enqueue(channel, request)
    next_cancel = 0
    for method, _, body in channel.consume(broker.queue, inactivity_timeout=0.2):
        if interrupted and time.monotonic() >= next_cancel:
            cancel(channel, turn_id)  # and again, for nobody may have heard it
            next_cancel = time.monotonic() + CANCEL_PAUSE_S
        if body is None:
            continue
        stop_reason = reader.take(json.loads(body))
        channel.basic_ack(method.delivery_tag)
        if stop_reason:
            channel.cancel()
            return stop_reason
    raise AMQPConnectionError("the broker has ended the consumer")


def run_turn(broker, workspace, prompt):
    """Returns how it ended, over as many connections as that takes."""
    request = {
        "turn_id": str(uuid.uuid4()),
        "workspace": workspace,
        "messages": [{"role": "user", "content": prompt}],
    }
    reader = Reader(request["turn_id"], workspace)
    say(f"turn {request['turn_id']}")
    while True:
        try:
            return follow(broker, request, reader)
        except REFUSALS:
            raise
        except AMQPError as error:
            say(f"lost the broker: {error!r}")
            broker.reconnect()
            say("connected again")


def tail(url, turn_id, workspace=None):
    """Prints a turn from the event log.  Returns how it ended, over as many connections as that takes."""
    reader = Reader(turn_id, workspace)
    offset = "first"
    while True:
        try:
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                channel = connection.channel()
                channel.basic_qos(prefetch_count=100)  # a stream has no consumer without
                arguments = {"x-stream-offset": offset, "x-stream-filter": turn_id}
                for method, properties, body in channel.consume("codex.events.log", arguments=arguments):
                    offset = properties.headers["x-stream-offset"] + 1
                    stop_reason = reader.take(json.loads(body))  # the filter lets others through, too
                    channel.basic_ack(method.delivery_tag)
                    if stop_reason:
                        return stop_reason
                raise AMQPConnectionError("the broker has ended the consumer")
        except REFUSALS:
            raise
        except AMQPError as error:
            if offset == "first":
                raise
            say(f"lost the broker: {error!r}")
            time.sleep(RECONNECT_PAUSE_S)


def interrupt(_signal, _frame):
    global interrupted
    interrupted = True
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main():
    if len(sys.argv) < 3:
        say("usage: producer.py WORKSPACE PROMPT [PROMPT…]\n       producer.py --tail TURN_ID [WORKSPACE]")
        return 2
    workspace, *prompts = sys.argv[1:]
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
    try:
        if workspace == "--tail":
            return EXIT_STATUS.get(tail(url, *prompts[:2]), 1)
        signal.signal(signal.SIGINT, interrupt)
        broker = Broker(url)
        stop_reason = "cancelled"
        for prompt in prompts:
            stop_reason = run_turn(broker, workspace, prompt)
            if stop_reason != "end_turn":
                break
        broker.close()
    except (AMQPError, OSError) as error:
        say(f"can't go on: {error!r}")
        return 1
    return EXIT_STATUS.get(stop_reason, 1)


if __name__ == "__main__":
    sys.exit(main())
