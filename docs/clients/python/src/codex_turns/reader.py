"""The rules of reading a turn: what is its own, what is new, what it comes to. Knows no broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import TurnCancelled, TurnFailed, TurnRejected, TurnTimedOut
from .events import ErrorDetail, ErrorEvent, MessageEnd, TextDelta, TurnEvent

_FAILURES: dict[str, type[TurnFailed]] = {"timeout": TurnTimedOut, "cancelled": TurnCancelled}


@dataclass(frozen=True, slots=True)
class Taken:
    """How an event follows on what came before.

    Attributes:
        restarted: A higher attempt started: what came so far is void.
        missed: Events of the attempt that never came.
    """

    restarted: bool
    missed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """How a turn ended that came to its end.

    Attributes:
        text: The agent's last message.
        end: The turn's last event, with `usage`, `structured`, `thread_id`, `metadata` and more.
    """

    text: str
    end: MessageEnd

    @property
    def turn_id(self) -> str:
        return self.end.turn_id

    @property
    def structured(self) -> object:
        """The answer as a JSON value, where the request has an `output_schema`; `None` if it is not there."""
        return self.end.structured


class TurnReader:
    """Reads the deliveries of one turn, in the order in which they come, with duplicates and forgeries among them."""

    def __init__(self, turn_id: str, workspace: str | None = None) -> None:
        """`workspace` is as the request names it, by its id or an absolute path; without one, the first event decides."""
        self.turn_id = turn_id
        self.end: MessageEnd | None = None
        self.error: ErrorDetail | None = None
        self.texts: dict[str, str] = {}  # of the last attempt, by item id
        self._workspace = workspace
        self._newest: tuple[int, int] | None = None

    def take(self, event: TurnEvent) -> Taken | None:
        """Returns `None` for what is not this turn's, or not newer than what came before."""
        if self.end is not None or event.turn_id != self.turn_id or not self._admits(event.workspace):
            return None
        place = (event.attempt, event.seq)
        if self._newest is not None and place <= self._newest:
            return None
        restarted = self._newest is not None and event.attempt > self._newest[0]
        expected = 0 if self._newest is None or restarted else self._newest[1] + 1
        self._newest = place
        if restarted:
            self.texts.clear()
            self.error = None
        match event:
            case TextDelta():
                self.texts[event.item_id] = self.texts.get(event.item_id, "") + event.text
            case ErrorEvent():
                self.error = event.error
            case MessageEnd():
                self.end = event
            case _:
                pass
        return Taken(restarted, event.seq - expected)

    def answer(self, end: MessageEnd) -> Answer:
        """What the turn came to. Raises a `TurnFailed` unless it came to its end."""
        text = end.text if end.text is not None else next(reversed(self.texts.values()), "")
        if end.stop_reason == "end_turn":
            return Answer(text, end)
        error = self.error or ErrorDetail(f"turn.{end.stop_reason}", _message(end), "unknown", False)
        failure = _FAILURES.get(end.stop_reason, TurnRejected if end.attempt == 0 else TurnFailed)
        raise failure(self.turn_id, error.code, error.reason, error.message, error.retryable, text, end)

    def _admits(self, theirs: str | None) -> bool:
        """Any producer can send a turn under our id, for a workspace of its own."""
        if not theirs:
            return True  # an older worker's event, or a rejection that has no workspace to name
        ours = self._workspace
        if ours is not None and not ours.startswith("/"):
            return ours == theirs
        if ours is not None and not _ends_with(ours, theirs):
            return False
        self._workspace = theirs
        return True


def reply_error(headers: Mapping[str, Any]) -> ErrorDetail | None:
    """Why a turn did not come to its end, by the headers of a reply: see "Replies" in docs/EVENTS.md."""
    code = headers.get("x-error-code")
    if not isinstance(code, str):
        return None
    reason, message = headers.get("x-error-reason", "unknown"), headers.get("x-error-message", "")
    return ErrorDetail(code, str(message), str(reason), headers.get("x-error-retryable") is True)


def _message(end: MessageEnd) -> str:
    if end.superseded_by is not None:
        return f"the turn was interrupted by the turn {end.superseded_by}"
    return f"the turn ended with the stop reason {end.stop_reason}"


def _ends_with(path: str, workspace: str) -> bool:
    """Only a worker knows its root, so more can't be said of a path."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    segments = workspace.split("/")
    return names[-len(segments) :] == segments
