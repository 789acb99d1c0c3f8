"""The events of a turn, as docs/EVENTS.md describes them.

Unknown fields are kept in `Event.raw`, and events of unknown types come as `UnknownEvent`: a newer worker may publish both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

T = TypeVar("T")
COUNTS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "thinking_tokens")

StopReason: TypeAlias = Literal["end_turn", "error", "cancelled", "timeout"]
ErrorCode: TypeAlias = Literal[
    "request.invalid",
    "workspace.rejected",
    "workspace.backlog_full",
    "workspace.busy",
    "workspace.lost",
    "codex.start_failed",
    "codex.exited",
    "turn.failed",
    "turn.image_unusable",
    "turn.timeout",
    "turn.idle_timeout",
    "turn.expired",
    "turn.attempts_exhausted",
    "worker.internal",
]
Reason: TypeAlias = Literal[
    "auth",
    "rate_limited",
    "usage_limit",
    "overloaded",
    "context_window",
    "network",
    "invalid_prompt",
    "policy",
    "config",
    "workspace",
    "thread",
    "unknown",
]
NoticeCode: TypeAlias = Literal[
    "codex.reconnecting",
    "codex.error",
    "codex.warning",
    "codex.line_too_long",
    "codex.thread_lost",
    "codex.compacted",
    "codex.model_rerouted",
    "codex.usage_unknown",
    "codex.not_structured",
    "workspace.session_ignored",
    "workspace.session_not_kept",
    "request.content_ignored",
    "request.expiration_set",
    "event.too_large",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have.

    Attributes:
        turn_id: The turn's id.
        workspace: The id of the turn's workspace; empty if a rejected request had no valid one, `None` from workers
            older than the field.
        attempt: How often the turn was started; 0 if it never was.
        seq: 0, 1, 2 … within an attempt.
        time: RFC 3339, UTC, milliseconds.
        raw: The whole event as it was published.
    """

    type: ClassVar[str] = ""

    turn_id: str
    workspace: str | None
    attempt: int
    seq: int
    time: str
    raw: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageStart(Event):
    """Always first."""

    type: ClassVar[str] = "message_start"

    metadata: Mapping[str, Any] | None
    model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingDelta(Event):
    """The agent's reasoning, or a part of it: join those of one `item_id`."""

    type: ClassVar[str] = "thinking_delta"

    item_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse(Event):
    """A tool call starts."""

    type: ClassVar[str] = "tool_use"

    id: str
    name: str
    input: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutput(Event):
    """A part of what a call prints while it runs; `ToolResult` has all of it."""

    type: ClassVar[str] = "tool_output"

    tool_use_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult(Event):
    """A tool call's result."""

    type: ClassVar[str] = "tool_result"

    tool_use_id: str
    name: str
    is_error: bool
    content: Any


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One item of the agent's to-do list."""

    text: str
    completed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Event):
    """The agent's to-do list, whole, each time it changes."""

    type: ClassVar[str] = "plan"

    items: tuple[PlanItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something worth knowing though the turn goes on. `code` is one of `NoticeCode`, or a newer one."""

    type: ClassVar[str] = "notice"

    code: NoticeCode | str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta(Event):
    """A message of the agent, or a part of one: join those of one `item_id`."""

    type: ClassVar[str] = "text_delta"

    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """Why a turn did not come to its end. `code` and `reason` are of `ErrorCode` and `Reason`, or newer ones."""

    code: ErrorCode | str
    message: str
    reason: Reason | str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent(Event):
    """Why the turn did not come to its end: at most once, right before `MessageEnd`."""

    type: ClassVar[str] = "error"

    error: ErrorDetail


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Counts of tokens. Cached ones are a part of input, thinking ones of output."""

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    thinking_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Tokens):
    """What all agents of a turn used, all attempts together; `agents` is the share of its sub-agents, if any is known."""

    agents: Tokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent(Event):
    """What the attempt's agents have used so far: every few seconds, where it has grown, with `app-server` only."""

    type: ClassVar[str] = "usage"

    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEnd(Event):
    """Always last.

    Attributes:
        stop_reason: One of `StopReason`.
        duration_ms: Of the last attempt.
        text: The agent's last message whole.
        structured: The same as a JSON value, where the request has an `output_schema`; see `has_structured`.
        has_structured: Whether there is such a value, which may itself be `None`.
        usage: `None` where codex did not report any; never zero in place of unknown.
    """

    type: ClassVar[str] = "message_end"

    stop_reason: StopReason | str
    duration_ms: int
    text: str | None
    structured: Any
    usage: Usage | None
    model: str | None
    thread_id: str | None
    metadata: Mapping[str, Any] | None
    superseded_by: str | None

    @property
    def has_structured(self) -> bool:
        return "structured" in self.raw


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """An event of a type that this version does not know; `raw` has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted(Event):
    """Made by the reader when a higher attempt starts, since a worker died: forget the text so far."""

    type: ClassVar[str] = "restarted"


TurnEvent: TypeAlias = (
    MessageStart
    | ThinkingDelta
    | ToolUse
    | ToolOutput
    | ToolResult
    | Plan
    | Notice
    | UsageEvent
    | TextDelta
    | ErrorEvent
    | MessageEnd
    | UnknownEvent
    | Restarted
)


def parse_event(body: bytes | str | Mapping[str, Any]) -> TurnEvent | None:
    """Decodes an event. Returns `None` if it is no event, such as the probes in the event log."""
    if isinstance(body, bytes | str):
        try:
            raw = json.loads(body)
        except ValueError:
            return None
    else:
        raw = body
    if not isinstance(raw, Mapping) or not _has_envelope(raw):
        return None
    envelope: dict[str, Any] = {
        "turn_id": raw["turn_id"],
        "workspace": raw.get("workspace"),
        "attempt": raw["attempt"],
        "seq": raw["seq"],
        "time": raw.get("time", ""),
        "raw": raw,
    }
    try:
        return _decode(raw, envelope)
    except (KeyError, TypeError):  # fields that this version does not understand
        return UnknownEvent(**envelope)


def _has_envelope(raw: Mapping[str, Any]) -> bool:
    return (
        isinstance(raw.get("turn_id"), str)
        and isinstance(raw.get("attempt"), int)
        and isinstance(raw.get("seq"), int)
        and isinstance(raw.get("type"), str)
    )


def _decode(raw: Mapping[str, Any], envelope: dict[str, Any]) -> TurnEvent:
    match raw["type"]:
        case "message_start":
            return MessageStart(**envelope, metadata=raw.get("metadata"), model=raw.get("model"))
        case "thinking_delta":
            return ThinkingDelta(**envelope, item_id=raw["item_id"], text=raw["text"])
        case "tool_use":
            return ToolUse(**envelope, id=raw["id"], name=raw["name"], input=raw["input"])
        case "tool_output":
            return ToolOutput(**envelope, tool_use_id=raw["tool_use_id"], text=raw["text"])
        case "tool_result":
            return ToolResult(
                **envelope,
                tool_use_id=raw["tool_use_id"],
                name=raw["name"],
                is_error=raw["is_error"],
                content=raw["content"],
            )
        case "plan":
            return Plan(**envelope, items=tuple(PlanItem(item["text"], item["completed"]) for item in raw["items"]))
        case "notice":
            return Notice(**envelope, code=raw["code"], message=raw["message"])
        case "usage":
            return UsageEvent(**envelope, usage=_known_usage(raw["usage"]))
        case "text_delta":
            return TextDelta(**envelope, item_id=raw["item_id"], text=raw["text"])
        case "error":
            return ErrorEvent(**envelope, error=error_detail(raw["error"]))
        case "message_end":
            return MessageEnd(
                **envelope,
                stop_reason=raw["stop_reason"],
                duration_ms=raw.get("duration_ms", 0),
                text=raw.get("text"),
                structured=raw.get("structured"),
                usage=_usage(raw.get("usage")),
                model=raw.get("model"),
                thread_id=raw.get("thread_id"),
                metadata=raw.get("metadata"),
                superseded_by=raw.get("superseded_by"),
            )
        case _:
            return UnknownEvent(**envelope)


def error_detail(raw: Mapping[str, Any]) -> ErrorDetail:
    """Decodes what an event `error` has."""
    return ErrorDetail(raw["code"], raw["message"], raw.get("reason", "unknown"), raw.get("retryable", False))


def _usage(raw: Mapping[str, Any] | None) -> Usage | None:
    return None if raw is None else _known_usage(raw)


def _known_usage(raw: Mapping[str, Any]) -> Usage:
    agents = raw.get("agents")
    return _counts(Usage, raw, agents=None if agents is None else _counts(Tokens, agents))


def _counts(kind: type[T], raw: Mapping[str, Any], **more: Any) -> T:
    return kind(**{name: raw[name] for name in COUNTS}, **more)
