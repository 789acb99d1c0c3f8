"""Where a turn is, as the workers answer: see "Where is my turn?" in docs/EVENTS.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from .events import ErrorDetail, MessageEnd, error_detail, parse_event
from .reader import Answer, TurnReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What all positions have.

    Attributes:
        turn_id: The turn's id.
        workspace: The id of its workspace, never a path.
        raw: The whole answer as it came.
    """

    state: ClassVar[str] = ""

    turn_id: str
    workspace: str
    raw: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnUnknown(Position):
    """No turn of that id in that workspace is known: it never came, or was forgotten.

    Attributes:
        unread: Turns that the broker has and no worker has read yet; this one may be among them.
    """

    state: ClassVar[str] = "unknown"

    unread: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnWaiting(Position):
    """The turn waits.

    Attributes:
        place: In its workspace's line, from 1; so many turns less one are ahead of it, one that runs included.
        paused: An operator has paused the workspace.
    """

    state: ClassVar[str] = "waiting"

    place: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRunning(Position):
    """A worker runs the turn.

    Attributes:
        since: When this attempt started: RFC 3339, UTC, milliseconds.
    """

    state: ClassVar[str] = "running"

    attempt: int
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded(Position):
    """The turn has ended.

    Attributes:
        end: Its last event, as it was published.
        error: Why it did not come to its end, if there was an event `error`.
    """

    state: ClassVar[str] = "ended"

    end: MessageEnd
    error: ErrorDetail | None

    def answer(self) -> Answer:
        """What the turn came to. Raises a `TurnFailed` unless it came to its end."""
        reader = TurnReader(self.turn_id, self.workspace)
        reader.error = self.error
        return reader.answer(self.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownState(Position):
    """A state that only newer workers know; `raw` has it."""


TurnPosition: TypeAlias = TurnUnknown | TurnWaiting | TurnRunning | TurnEnded | UnknownState


def parse_position(body: bytes | str) -> TurnPosition | None:
    """Decodes an answer. Returns `None` if it is no answer."""
    try:
        raw = json.loads(body)
        base: dict[str, Any] = {"turn_id": raw["turn_id"], "workspace": raw["workspace"], "raw": raw}
        return _decode(raw, base)
    except (ValueError, KeyError, TypeError):
        return None


def _decode(raw: Mapping[str, Any], base: dict[str, Any]) -> TurnPosition | None:
    match raw["state"]:
        case "unknown":
            return TurnUnknown(**base, unread=raw.get("unread", 0))
        case "waiting":
            return TurnWaiting(**base, place=raw["place"], paused=raw.get("paused", False))
        case "running":
            return TurnRunning(**base, attempt=raw["attempt"], since=raw["since"])
        case "ended":
            end = parse_event(raw["end"])
            error = raw.get("error")
            if not isinstance(end, MessageEnd):
                return None
            return TurnEnded(**base, end=end, error=None if error is None else error_detail(error))
        case _:
            return UnknownState(**base)
