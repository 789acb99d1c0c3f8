package codexturns;

import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import com.rabbitmq.client.Delivery;
import java.nio.charset.StandardCharsets;
import java.time.DateTimeException;
import java.time.Instant;
import java.util.Map;

/** Reads what comes to {@code reply_to}. */
final class Replies {
    private Replies() {}

    /** Throws {@link TurnClientException.NoAnswer} for what is no description. */
    static Description descriptionOf(Delivery reply) {
        String body = new String(reply.getBody(), StandardCharsets.UTF_8);
        try {
            return descriptionOf(JsonParser.parseString(body).getAsJsonObject());
        } catch (JsonParseException | IllegalStateException | NumberFormatException error) {
            throw new TurnClientException.NoAnswer("the answer can't be read: " + body, error);
        }
    }

    private static Description descriptionOf(JsonObject raw) {
        String turnId = Json.text(raw, "turn_id");
        String workspace = Json.text(raw, "workspace");
        String state = Json.text(raw, "state");
        return switch (state) {
            case "unknown" -> new Description.Unknown(turnId, workspace, raw.has("unread") ? Json.number(raw, "unread").intValue() : 0);
            case "waiting" -> new Description.Waiting(
                    turnId, workspace, Json.number(raw, "place").intValue(), raw.has("paused") && Json.flag(raw, "paused"));
            case "running" -> new Description.Running(turnId, workspace, Json.number(raw, "attempt").intValue(), since(raw));
            case "ended" -> {
                Event end = EventDecoder.parse(Json.any(raw, "end").toString());
                if (!(end instanceof Event.MessageEnd last)) throw new JsonParseException("the end is no message_end");
                JsonObject error = Json.optionalObject(raw, "error");
                yield new Description.Ended(turnId, workspace, last, error == null ? null : EventDecoder.errorOf(error));
            }
            default -> new Description.Other(turnId, workspace, state, raw);
        };
    }

    private static Instant since(JsonObject raw) {
        try {
            return Instant.parse(Json.text(raw, "since"));
        } catch (DateTimeException error) {
            return null;
        }
    }

    /** Reads a reply to a request: the turn's end, with what its error event says in the headers. */
    static Answer answerOf(String turnId, Delivery reply) {
        if (!(Event.parse(reply.getBody()) instanceof Event.MessageEnd end) || !end.turnId().equals(turnId)) {
            throw new TurnClientException.NoAnswer("the reply is not the end of turn " + turnId, null);
        }
        Map<String, Object> headers = reply.getProperties().getHeaders();
        Event.ErrorDetail error = null;
        if (headers != null && headers.get("x-error-code") != null) {
            error = new Event.ErrorDetail(
                    headers.get("x-error-code").toString(),
                    String.valueOf(headers.getOrDefault("x-error-message", "")),
                    String.valueOf(headers.getOrDefault("x-error-reason", "unknown")),
                    Boolean.TRUE.equals(headers.get("x-error-retryable")));
        }
        return TurnReader.answer(end, error, "");
    }
}
