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
    NoAnswer,
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
from .positions import (
    Position,
    TurnEnded,
    TurnPosition,
    TurnRunning,
    TurnUnknown,
    TurnWaiting,
    UnknownState,
    parse_position,
)
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
    "NoAnswer",
    "NoEventLog",
    "NoWorker",
    "Notice",
    "NoticeCode",
    "Plan",
    "PlanItem",
    "Position",
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
    "TurnEnded",
    "TurnEvent",
    "TurnFailed",
    "TurnNotInLog",
    "TurnPosition",
    "TurnReader",
    "TurnRejected",
    "TurnRunning",
    "TurnStream",
    "TurnTail",
    "TurnTimedOut",
    "TurnUnknown",
    "TurnWaiting",
    "UnknownEvent",
    "UnknownState",
    "Usage",
    "UsageEvent",
    "parse_event",
    "parse_position",
]
