"""The library against the contract's files: docs/contract/. Needs no broker."""

import dataclasses
import json
import typing
import unittest
from pathlib import Path

from codex_turns import (
    MessageEnd,
    Restarted,
    TurnEnded,
    TurnFailed,
    TurnReader,
    TurnRunning,
    TurnUnknown,
    TurnWaiting,
    UnknownEvent,
    UnknownState,
    events,
    parse_event,
    parse_position,
)
from codex_turns.events import Event
from codex_turns.requests import MAX_BODY_BYTES, RequestOptions, encode_request

CONTRACT = Path(__file__).parents[3] / "contract"
EXAMPLES = CONTRACT / "examples" / "v1"
TYPES = {kind.type: kind for kind in typing.get_args(events.TurnEvent) if kind not in (UnknownEvent, Restarted)}
ENVELOPE = {field.name for field in dataclasses.fields(Event)} - {"raw"} | {"type"}


def read(path: Path) -> typing.Any:
    return json.loads(path.read_text())


class Contract(unittest.TestCase):
    maxDiff = None

    def test_types_have_the_fields_of_the_schema(self) -> None:
        definitions = read(CONTRACT / "event.schema.json")["$defs"]
        kinds = {name: each for name, each in definitions.items() if "type" in each.get("properties", {})}
        kinds = {each["properties"]["type"]["const"]: each for each in kinds.values()}
        self.assertEqual(set(kinds), set(TYPES))
        for kind, definition in kinds.items():
            fields = {field.name for field in dataclasses.fields(TYPES[kind])} - {"raw"} | {"type"}
            self.assertEqual(fields, set(definition["properties"]), kind)

    def test_closed_sets_are_those_of_the_schema(self) -> None:
        definitions = read(CONTRACT / "event.schema.json")["$defs"]
        for name in ("ErrorCode", "NoticeCode", "Reason", "StopReason"):
            values = {each["const"] for each in definitions[name]["oneOf"]}
            self.assertEqual(set(typing.get_args(getattr(events, name))), values, name)

    def test_options_are_the_optional_fields_of_a_request(self) -> None:
        fields = set(read(CONTRACT / "request.schema.json")["properties"]) - {"workspace", "messages"}
        self.assertEqual(set(RequestOptions.__annotations__), fields)

    def test_every_example_of_an_event_is_decoded(self) -> None:
        for path in sorted((EXAMPLES / "events").glob("*.json")):
            raw = read(path)
            event = parse_event(path.read_bytes())
            assert event is not None
            self.assertIsInstance(event, TYPES[raw["type"]], path.name)
            self.assertEqual(encoded(event), raw, path.name)

    def test_every_example_of_a_position_is_decoded(self) -> None:
        kinds = {kind.state: kind for kind in (TurnUnknown, TurnWaiting, TurnRunning, TurnEnded)}
        for path in sorted((EXAMPLES / "descriptions").glob("*.json")):
            raw = read(path)
            position = parse_position(path.read_bytes())
            assert isinstance(position, kinds[raw["state"]]), path.name
            for name, value in raw.items():
                if name not in ("end", "error"):
                    self.assertEqual(getattr(position, name), value, path.name)
            if isinstance(position, TurnEnded):
                self.assertEqual(encoded(position.end), raw["end"], path.name)
                error = None if position.error is None else dataclasses.asdict(position.error)
                self.assertEqual(error, raw.get("error"), path.name)

    def test_an_end_that_is_described_is_an_answer(self) -> None:
        def ended(name: str) -> TurnEnded:
            position = parse_position((EXAMPLES / "descriptions" / name).read_bytes())
            assert isinstance(position, TurnEnded)
            return position

        self.assertEqual(ended("ended.json").answer().text, "Fixed.")
        with self.assertRaises(TurnFailed) as raised:
            ended("ended-with-an-error.json").answer()
        self.assertEqual((raised.exception.reason, raised.exception.retryable), ("rate_limited", True))

    def test_what_is_no_position_is_none_and_what_is_newer_is_kept(self) -> None:
        for body in (b"{}", b"[]", b"\xff", b'{"turn_id":"t","workspace":"a","state":"running"}'):
            self.assertIsNone(parse_position(body))
        newer = parse_position(b'{"turn_id":"t","workspace":"a","state":"parked","where":"x"}')
        assert isinstance(newer, UnknownState)
        self.assertEqual(newer.raw["where"], "x")

    def test_turns_are_read_as_they_are_to_be_read(self) -> None:
        for path in sorted((EXAMPLES / "turns").glob("*.jsonl")):
            with self.subTest(path.name):
                self.assertEqual(as_read(path), read(path.with_suffix(".read.json")))

    def test_what_is_no_event_is_none_and_what_is_newer_is_kept(self) -> None:
        for body in (b"{}", b"[]", b"\xff", b'{"turn_id":"t"}', b'{"turn_id":"t","attempt":"1","seq":0,"type":"plan"}'):
            self.assertIsNone(parse_event(body))
        newer = parse_event(b'{"turn_id":"t","attempt":1,"seq":2,"type":"text_delta","pieces":["a"]}')
        self.assertIsInstance(newer, UnknownEvent)

    def test_a_path_names_the_workspace_that_it_ends_with(self) -> None:
        reader = TurnReader("t", "/srv/workspaces/./acme/website/")
        start = {"turn_id": "t", "attempt": 1, "seq": 0, "type": "message_start"}
        for theirs, is_taken in (("mallorys", False), ("acme/website", True), ("website", False)):
            event = parse_event(start | {"workspace": theirs})
            assert event is not None
            self.assertEqual(reader.take(event) is not None, is_taken, theirs)


class Requests(unittest.TestCase):
    def test_a_request_has_what_was_given(self) -> None:
        request = encode_request("Grüße", "acme/website", {"turn_id": "t-1", "timeout_s": 60, "metadata": {"a": None}})
        self.assertEqual(
            json.loads(request.body),
            {
                "turn_id": "t-1",
                "workspace": "acme/website",
                "messages": [{"role": "user", "content": "Grüße"}],
                "timeout_s": 60,
                "metadata": {"a": None},
            },
        )
        self.assertNotEqual(encode_request("a", "w", {}).turn_id, encode_request("a", "w", {}).turn_id)

    def test_what_no_worker_can_read_is_refused_at_once(self) -> None:
        for prompt, options in (("\ud83d", {}), ("a", {"metadata": {"a": float("nan")}}), ("a" * MAX_BODY_BYTES, {})):
            with self.assertRaises(ValueError):
                encode_request(prompt, "w", typing.cast(RequestOptions, options))


def encoded(event: typing.Any) -> dict[str, typing.Any]:
    """The event as it was published, from its fields: `None` is absent, unless it is the answer of a turn."""
    raw = {"type": event.type} | dataclasses.asdict(event)
    del raw["raw"]
    if raw.get("usage") is not None and raw["usage"]["agents"] is None:
        del raw["usage"]["agents"]
    if "items" in raw:
        raw["items"] = list(raw["items"])
    has_null = {"structured"} if isinstance(event, MessageEnd) and event.has_structured else {"input", "content"}
    return {name: value for name, value in raw.items() if value is not None or name in has_null}


def as_read(path: Path) -> dict[str, typing.Any]:
    reader = TurnReader("t-01", "acme/website")
    taken, restarts = [], []
    for number, line in enumerate(path.read_text().splitlines()):
        event = parse_event(line)
        if event is None:
            continue
        how = reader.take(event)
        if how is not None:
            taken.append(number)
        if how is not None and how.restarted:
            restarts.append(number)
    end = reader.end
    assert end is not None
    try:
        reader.answer(end)
        error = None
    except TurnFailed as failure:
        error = failure if reader.error else None
    usage = None if end.usage is None else end.raw["usage"]
    return {
        "taken": taken,
        "restarts": restarts,
        "texts": [{"item_id": item_id, "text": text} for item_id, text in reader.texts.items()],
        "error": None if error is None else {name: getattr(error, name) for name in ("code", "message", "reason", "retryable")},
        "stop_reason": end.stop_reason,
        "text": end.text,
        "usage": usage,
    }


if __name__ == "__main__":
    unittest.main()
