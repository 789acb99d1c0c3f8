#!/usr/bin/env python3
"""Sends prompts to a workspace, each a turn of the same conversation, and prints the answers as they come.

    AMQP_URL=amqp://… python3 producer.py WORKSPACE PROMPT [PROMPT…]
    AMQP_URL=amqp://… python3 producer.py --tail TURN_ID [WORKSPACE]

The second form comes late: it prints a turn from the event log, if the operator keeps one, and follows it to its end.

Ctrl-C cancels the turn; a second one leaves at once.  Exit status: 0 if every turn came to its end, 124 if one ran out
of time, 130 if it was cancelled, 2 for wrong arguments, 1 for everything else.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator

from codex_turns import ErrorEvent, MessageEnd, Restarted, TextDelta, TurnClient, TurnClientError, TurnEvent, TurnStream

logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # the client reports what matters of it
EXIT_STATUS = {"end_turn": 0, "timeout": 124, "cancelled": 130}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Printer:
    """Prints what the agent says, each message on lines of its own."""

    def __init__(self) -> None:
        self.item_id = ""
        self.text = ""  # of the message that came last
        self.line_is_open = False

    def print(self, event: TurnEvent) -> None:
        match event:
            case Restarted():
                self.begin_message("")
                say(f"attempt {event.attempt}: it starts again, forget the text so far")
            case TextDelta():
                if event.item_id != self.item_id:
                    self.begin_message(event.item_id)
                self.show(event.text)
            case ErrorEvent():
                self.end_line()
                say(f"{event.error.code}: {event.error.message}")
            case MessageEnd():
                if event.text is not None and event.text != self.text:  # pieces of it were missed
                    self.begin_message("")
                    self.show(event.text)
                self.end_line()
                say(f"{event.stop_reason}, tokens: {json.dumps(event.raw.get('usage'))}")
            case _:
                pass  # not shown here

    def begin_message(self, item_id: str) -> None:
        self.end_line()
        self.item_id = item_id
        self.text = ""

    def show(self, text: str) -> None:
        print(text, end="", flush=True)
        self.text += text
        self.line_is_open = True

    def end_line(self) -> None:
        if self.line_is_open:
            print(flush=True)
        self.line_is_open = False


async def show(turn: AsyncIterator[TurnEvent]) -> str:
    """Returns the stop reason."""
    printer = Printer()
    stop_reason = ""
    async for event in turn:
        printer.print(event)
        if isinstance(event, MessageEnd):
            stop_reason = event.stop_reason
    return stop_reason


def cancel_on_ctrl_c(turn: TurnStream) -> None:
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)  # the next one ends the program
        tasks.add(loop.create_task(turn.cancel()))

    tasks: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGINT, interrupt)


async def run(client: TurnClient, workspace: str, prompts: list[str]) -> str:
    stop_reason = ""
    for prompt in prompts:
        turn = client.stream(prompt, workspace)
        say(f"turn {turn.turn_id}")
        async with turn:
            cancel_on_ctrl_c(turn)
            stop_reason = await show(turn)
        if stop_reason != "end_turn":
            break
    return stop_reason


async def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        say("usage: producer.py WORKSPACE PROMPT [PROMPT…]\n       producer.py --tail TURN_ID [WORKSPACE]")
        return 2
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
    try:
        async with TurnClient(url, on_status=say) as client:
            if arguments[0] == "--tail":
                async with client.tail(*arguments[1:3]) as turn:
                    stop_reason = await show(turn)
            else:
                stop_reason = await run(client, arguments[0], arguments[1:])
    except TurnClientError as error:
        say(f"can't go on: {error}")
        return 1
    return EXIT_STATUS.get(stop_reason, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
