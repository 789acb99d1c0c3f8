#!/usr/bin/env python3
"""Sends a prompt to a workspace and prints the answer as it comes.

    AMQP_URL=amqp://… python3 producer.py acme/website 'Fix the failing test'
"""
import json
import os
import sys
import time
import uuid

import pika


def run_turn(channel, workspace, prompt):
    turn_id = str(uuid.uuid4())

    # Bind before you publish: what is published while nobody is bound is gone.
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "codex.events", routing_key=turn_id)

    request = {
        "turn_id": turn_id,
        "workspace": workspace,
        "messages": [{"role": "user", "content": prompt}],
    }
    # Mandatory, and with confirms: raises when the broker does not have it.
    channel.basic_publish(
        "codex.requests",
        routing_key="turn",
        body=json.dumps(request),
        properties=pika.BasicProperties(
            delivery_mode=2,  # survives a restart of the broker
            content_type="application/json",
            timestamp=int(time.time()),
        ),
        mandatory=True,
    )

    newest = (0, -1)
    for _, _, body in channel.consume(queue, auto_ack=True):
        event = json.loads(body)
        place = (event["attempt"], event["seq"])
        if place <= newest:
            continue  # told before
        if event["attempt"] > newest[0] and newest[1] >= 0:
            print("(starting again: forget what came before)", file=sys.stderr)
        newest = place

        if event["type"] == "text_delta":
            print(event["text"], flush=True)
        elif event["type"] == "error":
            error = event["error"]
            print(f"{error['code']}: {error['message']}", file=sys.stderr)
        elif event["type"] == "message_end":
            channel.cancel()
            return event


if __name__ == "__main__":
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        end = run_turn(channel, workspace=sys.argv[1], prompt=sys.argv[2])
    print(f"{end['stop_reason']}, tokens: {end.get('usage')}", file=sys.stderr)
    sys.exit(end["stop_reason"] != "end_turn")
