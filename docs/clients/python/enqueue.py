"""Enqueues a turn and leaves."""
import json
import os
import uuid

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.confirm_delivery()  # from now on, publishing raises when the broker does not take it

request = {
    "turn_id": str(uuid.uuid4()),
    "workspace": "acme/website",
    "messages": [{"role": "user", "content": "Fix the failing test"}],
}
properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, message_id=request["turn_id"])
channel.basic_publish("codex.requests", "turn", json.dumps(request), properties, mandatory=True)
print(request["turn_id"])
