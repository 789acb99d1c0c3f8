"""A client of codex-turn-worker: sends turns over RabbitMQ, and reads the answers as they come.

    async with TurnClient("amqp://user:password@broker:5672/%2f") as client:
        answer = await client.run("Fix the failing test", "acme/website")
        print(answer.text)

`codex_turns.sync` has the same without asyncio.
"""

from .client import TurnClient
from .errors import (
    BrokerRefused,
    BrokerUnavailable,
    ClientClosed,
    NoEventLog,
    NoWorker,
    TurnCancelled,
    TurnClientError,
    TurnFailed,
    TurnNotInLog,
    TurnRejected,
    TurnTimedOut,
)
from .events import (
    ErrorCode,
    ErrorDetail,
    ErrorEvent,
    Event,
    MessageEnd,
    MessageStart,
    Notice,
    NoticeCode,
    Plan,
    PlanItem,
    Reason,
    Restarted,
    StopReason,
    TextDelta,
    ThinkingDelta,
    Tokens,
    ToolOutput,
    ToolResult,
    ToolUse,
    TurnEvent,
    UnknownEvent,
    Usage,
    UsageEvent,
    parse_event,
)
from .link import Names
from .log import TurnTail
from .reader import Answer, TurnReader
from .requests import Prompt, RequestOptions
from .turn import TurnStream

__version__ = "1.0.0"

__all__ = [
    "Answer",
    "BrokerRefused",
    "BrokerUnavailable",
    "ClientClosed",
    "ErrorCode",
    "ErrorDetail",
    "ErrorEvent",
    "Event",
    "MessageEnd",
    "MessageStart",
    "Names",
    "NoEventLog",
    "NoWorker",
    "Notice",
    "NoticeCode",
    "Plan",
    "PlanItem",
    "Prompt",
    "Reason",
    "RequestOptions",
    "Restarted",
    "StopReason",
    "TextDelta",
    "ThinkingDelta",
    "Tokens",
    "ToolOutput",
    "ToolResult",
    "ToolUse",
    "TurnCancelled",
    "TurnClient",
    "TurnClientError",
    "TurnEvent",
    "TurnFailed",
    "TurnNotInLog",
    "TurnReader",
    "TurnRejected",
    "TurnStream",
    "TurnTail",
    "TurnTimedOut",
    "UnknownEvent",
    "Usage",
    "UsageEvent",
    "parse_event",
]
