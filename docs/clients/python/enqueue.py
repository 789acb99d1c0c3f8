"""Enqueues a turn and leaves."""

import asyncio
import os

from codex_turns import TurnClient

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")


async def main() -> None:
    async with TurnClient(URL) as client:
        print(await client.submit("Fix the failing test", "acme/website"))


asyncio.run(main())
