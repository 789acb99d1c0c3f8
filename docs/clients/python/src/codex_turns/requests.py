"""What a producer asks for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

MAX_BODY_BYTES = 8 * 1024 * 1024
"""No worker takes more; by default it takes 256 KiB (`TURN_WORKER_MAX_REQUEST_BYTES`)."""

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""The text, or content blocks: `{"type": "text", …}` and `{"type": "image", …}`, see "Images" in docs/EVENTS.md."""


class RequestOptions(TypedDict, total=False):
    """The optional fields of a request: see "Requests" in docs/EVENTS.md.

    `turn_id` is a new UUID where it is absent. Choose it yourself, and keep it, to be able to send the turn again after a
    crash of your own: a turn runs once, however often it is sent.
    """

    turn_id: str
    model: str
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"]
    service_tier: Literal["default", "flex", "priority"]
    tenant: str
    timeout_s: int
    max_attempts: int
    start_within_s: int
    on_busy: Literal["enqueue", "reject", "interrupt"]
    thread: Literal["continue", "new", "continue_or_new"]
    metadata: Mapping[str, Any]
    output_schema: Mapping[str, Any]
    enqueued_at: str
    traceparent: str
    tracestate: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request, encoded. `may_be_known`: the caller chose the id, so the turn may have been sent before."""

    turn_id: str
    workspace: str
    body: bytes
    may_be_known: bool


def encode_request(prompt: Prompt, workspace: str, options: RequestOptions) -> Request:
    """Encodes a request. Raises `ValueError` for what is no JSON (a lone surrogate, NaN) or larger than any worker takes."""
    turn_id = options.get("turn_id") or str(uuid.uuid4())
    content = prompt if isinstance(prompt, str) else list(prompt)
    request: dict[str, Any] = {
        "turn_id": turn_id,
        "workspace": workspace,
        "messages": [{"role": "user", "content": content}],
    }
    request |= {name: value for name, value in options.items() if name != "turn_id" and value is not None}
    body = json.dumps(request, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"the request has {len(body)} bytes, expected at most {MAX_BODY_BYTES}")
    return Request(turn_id, workspace, body, "turn_id" in options)
