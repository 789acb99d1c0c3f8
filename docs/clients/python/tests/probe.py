"""Uses the library as services do, for tests/it/clients, which have a worker answer and look at what is printed.

AMQP_URL=amqp://… python3 probe.py scripted     with a worker that repeats each prompt
AMQP_URL=amqp://… python3 probe.py pool         with a real one
AMQP_URL=amqp://… python3 probe.py restart      the same turn in each process
AMQP_URL=amqp://… python3 probe.py asking       with a real one, which it asks where its turns are
"""

import asyncio
import os
import sys

from codex_turns import (
    NoAnswer,
    TextDelta,
    TurnClient,
    TurnEnded,
    TurnFailed,
    TurnRejected,
    TurnRunning,
    TurnWaiting,
    sync,
)

URL = os.environ["AMQP_URL"]


async def scripted() -> None:
    async with TurnClient(URL) as client:
        answers = await asyncio.gather(*(client.run(f"turn {n}", f"w{n}") for n in range(500)))
        print("many", sum(answer.text == f"turn {n}" for n, answer in enumerate(answers)))
        try:
            await client.run("fail", "a")
        except TurnFailed as error:
            print("failed", error.code, error.reason, lower(error.retryable))
    async with TurnClient(URL, buffer_limit=10) as client, client.stream("flood 50", "a") as slow:
        answer = await slow.answer()
        other = await client.run("other", "b")
        kept = [event.type async for event in slow]
        print("slow", len(answer.text), len(kept), kept[-1], slow.missed, other.text)


async def pool() -> None:
    async with TurnClient(URL) as client:
        try:
            await client.run("say no", "../a")
        except TurnRejected as error:
            print("rejected", error.code, lower(error.retryable))
        async with client.stream("t1\nsay hi", "a") as turn:
            print("stream", *[event.type async for event in turn])
        again = await client.run("t1\nsay hi", "a", turn_id=turn.turn_id)
        print("again", again.text, lower(again.turn_id == turn.turn_id))
        async with client.stream("t2\nsay left\nwait never", "a") as left:
            async for event in left:
                if isinstance(event, TextDelta):
                    break
        print("left", left.turn_id)
        waiting = asyncio.create_task(client.run("t3\nsay no\nwait never", "b", turn_id="abandoned"))
        await started(client)
        waiting.cancel()
        print("abandoned", (await asyncio.gather(waiting, return_exceptions=True))[0].__class__.__name__)


async def started(client: TurnClient) -> None:
    """Until another turn, of another workspace, has ended: then the one before has been sent."""
    await client.run("t4\nsay yes", "c")


async def restart() -> None:
    async with (
        TurnClient(URL, queue="guest.restart") as client,
        client.stream("t1\nsay before\nwait go\nsay after", "a", turn_id="restart") as turn,
    ):
        async for event in turn:
            if isinstance(event, TextDelta):
                print(event.text, flush=True)
        print("answer", (await turn.answer()).text)


async def asking() -> None:
    async with TurnClient(URL) as client:
        answer = await client.run("t1\nsay hi", "a", by_reply=True)
        again = await client.run("t1\nsay hi", "a", by_reply=True, turn_id=answer.turn_id)
        print("reply", answer.text, again.text)
        for prompt, workspace in (("say no", "../a"), ("t2\nfail no luck", "a")):
            try:
                await client.run(prompt, workspace, by_reply=True)
            except TurnFailed as error:
                print(error.__class__.__name__, error.code, error.reason, lower(error.retryable))
        async with client.stream("t3\nsay on\nwait never", "a") as turn:
            async for event in turn:
                if isinstance(event, TextDelta):
                    break
            last = await client.submit("t4\nsay last", "a")
            for turn_id, workspace in ((turn.turn_id, "a"), (last, "a"), (turn.turn_id, "b")):
                match await client.describe(turn_id, workspace):
                    case TurnRunning(attempt=attempt):
                        print("running", attempt)
                    case TurnWaiting(place=place):
                        print("waiting", place)
                    case other:
                        print(other.state)
        ended = await client.describe(answer.turn_id, "a")
        if isinstance(ended, TurnEnded):
            print("ended", ended.answer().text)
        try:
            await client.describe("never-sent", "a", timeout_s=0.5)  # that it is unknown takes longer
        except NoAnswer:
            print("no answer")
    with sync.TurnClient(URL) as blocking:
        print("sync", blocking.describe(answer.turn_id, "a").state, blocking.run("t5\nsay once", "b", by_reply=True).text)


def lower(value: bool) -> str:
    return str(value).lower()


def without_asyncio() -> None:
    with sync.TurnClient(URL) as client:
        with client.stream("t5\nsay streamed", "d") as turn:
            print("sync", *[event.text for event in turn if isinstance(event, TextDelta)], turn.answer().text)
        print("sync", client.run("t6\nsay run", "d").text)


if __name__ == "__main__":
    if sys.argv[1:] == ["scripted"]:
        asyncio.run(scripted())
    elif sys.argv[1:] == ["restart"]:
        asyncio.run(restart())
    elif sys.argv[1:] == ["asking"]:
        asyncio.run(asking())
    else:
        asyncio.run(pool())
        without_asyncio()
