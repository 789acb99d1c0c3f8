"""What can go wrong, as exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import MessageEnd


class TurnClientError(Exception):
    """All errors of this package."""


class BrokerUnavailable(TurnClientError):
    """The broker can't be reached. Raised by the first connection only; later ones are retried."""


class BrokerRefused(TurnClientError):
    """The broker refuses an operation: a missing right, exchange or virtual host, or a message it does not take."""


class NoWorker(BrokerRefused):
    """No queue takes turns: no worker has ever run with this prefix on this virtual host."""


class NoEventLog(BrokerRefused):
    """There is no event log: no worker has ever run with `TURN_WORKER_EVENT_LOG=on`."""


class TurnNotInLog(TurnClientError):
    """The turn is not in the event log: it has not started, is older than the log, or never was."""


class NoAnswer(TurnClientError):
    """No worker has answered where the turn is. It implies nothing about the turn."""


class ClientClosed(TurnClientError):
    """The client was closed before the turn ended. The turn goes on."""


class TurnFailed(TurnClientError):
    """The turn ended with the stop reason `error`; the base class of every other bad end.

    Attributes:
        turn_id: The turn's id.
        code: What happened, such as `turn.failed`: see "Error codes" in docs/EVENTS.md.
        reason: Why, such as `rate_limited`: see "Reasons" there.
        message: For people; its words may change.
        retryable: Whether the same turn, sent again under a *new* id, may succeed without any other change.
        text: What the agent's last message was before that, maybe empty.
        end: The turn's last event.
    """

    def __init__(self, turn_id: str, code: str, reason: str, message: str, retryable: bool, text: str, end: MessageEnd) -> None:
        super().__init__(f"{code}: {message}")
        self.turn_id = turn_id
        self.code = code
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.text = text
        self.end = end


class TurnRejected(TurnFailed):
    """The request was not accepted, or the turn was not started in time; it was not run."""


class TurnTimedOut(TurnFailed):
    """The turn ran longer than its limit, or codex was silent for too long."""


class TurnCancelled(TurnFailed):
    """The turn was cancelled. `end.superseded_by` names the turn that interrupted it, if one did."""
