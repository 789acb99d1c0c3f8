"""Asks and prints the answer."""

import os

from codex_turns.sync import TurnClient

with TurnClient(os.environ["AMQP_URL"]) as client:
    answer = client.run("Fix the failing test", "acme/website")
    print(answer.text)
