package codexturns;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import java.time.DateTimeException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;

/** Reads events as they are published. */
final class EventDecoder {
    private EventDecoder() {}

    /** Decodes an event. Returns null if the body is no event. */
    static Event parse(String body) {
        JsonObject raw;
        String type;
        Event.Envelope envelope;
        try {
            raw = JsonParser.parseString(body).getAsJsonObject();
            type = Json.text(raw, "type");
            int attempt = Json.number(raw, "attempt").intValue();
            int seq = Json.number(raw, "seq").intValue();
            String workspace = Json.optionalText(raw, "workspace");
            envelope = new Event.Envelope(Json.text(raw, "turn_id"), workspace, attempt, seq, timeOf(raw), raw);
        } catch (JsonParseException | IllegalStateException | NumberFormatException error) {
            return null;
        }
        try {
            return decode(type, envelope, raw);
        } catch (JsonParseException | IllegalStateException | NumberFormatException error) {
            if (type.equals("message_end") && Json.isText(raw.get("stop_reason"))) {
                // The end of a turn is its end, regardless of a newer worker's reasons.
                String stopReason = raw.get("stop_reason").getAsString();
                return new Event.MessageEnd(envelope, stopReason, null, raw.get("structured"), null, null, 0, null, null, null);
            }
            return new Event.Unknown(envelope, type);
        }
    }

    private static Event decode(String type, Event.Envelope envelope, JsonObject raw) {
        return switch (type) {
            case "message_start" -> new Event.MessageStart(envelope, Json.optionalObject(raw, "metadata"), Json.optionalText(raw, "model"));
            case "thinking_delta" -> new Event.ThinkingDelta(envelope, Json.text(raw, "item_id"), Json.text(raw, "text"));
            case "tool_use" -> new Event.ToolUse(envelope, Json.text(raw, "id"), Json.text(raw, "name"), Json.any(raw, "input"));
            case "tool_output" -> new Event.ToolOutput(envelope, Json.text(raw, "tool_use_id"), Json.text(raw, "text"));
            case "tool_result" -> new Event.ToolResult(
                    envelope,
                    Json.text(raw, "tool_use_id"),
                    Json.text(raw, "name"),
                    Json.flag(raw, "is_error"),
                    Json.any(raw, "content"));
            case "plan" -> new Event.Plan(envelope, planOf(Json.any(raw, "items").getAsJsonArray()));
            case "usage" -> new Event.UsageUpdate(envelope, usageOf(Json.any(raw, "usage").getAsJsonObject()));
            case "notice" -> new Event.Notice(envelope, Json.text(raw, "code"), Json.text(raw, "message"));
            case "text_delta" -> new Event.TextDelta(envelope, Json.text(raw, "item_id"), Json.text(raw, "text"));
            case "error" -> new Event.Error(envelope, errorOf(Json.any(raw, "error").getAsJsonObject()));
            case "message_end" -> new Event.MessageEnd(
                    envelope,
                    Json.text(raw, "stop_reason"),
                    Json.optionalText(raw, "text"),
                    raw.get("structured"),
                    Json.optionalText(raw, "thread_id"),
                    Json.optionalText(raw, "model"),
                    Json.number(raw, "duration_ms").longValue(),
                    Json.optionalObject(raw, "metadata"),
                    raw.has("usage") ? usageOf(raw.get("usage").getAsJsonObject()) : null,
                    Json.optionalText(raw, "superseded_by"));
            default -> new Event.Unknown(envelope, type);
        };
    }

    private static Instant timeOf(JsonObject raw) {
        try {
            return Instant.parse(Json.text(raw, "time"));
        } catch (DateTimeException | JsonParseException error) {
            return null;
        }
    }

    private static List<Event.PlanItem> planOf(JsonArray items) {
        List<Event.PlanItem> plan = new ArrayList<>();
        for (JsonElement item : items) {
            JsonObject fields = item.getAsJsonObject();
            plan.add(new Event.PlanItem(Json.text(fields, "text"), Json.flag(fields, "completed")));
        }
        return List.copyOf(plan);
    }

    /** Only the code is always there: a rejection's reason may come from a much newer worker. */
    static Event.ErrorDetail errorOf(JsonObject error) {
        String reason = error.has("reason") ? Json.text(error, "reason") : "unknown";
        boolean retryable = error.has("retryable") && Json.flag(error, "retryable");
        return new Event.ErrorDetail(Json.text(error, "code"), Json.text(error, "message"), reason, retryable);
    }

    private static Event.Usage usageOf(JsonObject usage) {
        JsonObject agents = Json.optionalObject(usage, "agents");
        return new Event.Usage(
                count(usage, "input_tokens"),
                count(usage, "cache_read_tokens"),
                count(usage, "cache_write_tokens"),
                count(usage, "output_tokens"),
                count(usage, "thinking_tokens"),
                agents == null ? null : tokensOf(agents));
    }

    private static Event.Tokens tokensOf(JsonObject tokens) {
        return new Event.Tokens(
                count(tokens, "input_tokens"),
                count(tokens, "cache_read_tokens"),
                count(tokens, "cache_write_tokens"),
                count(tokens, "output_tokens"),
                count(tokens, "thinking_tokens"));
    }

    private static long count(JsonObject counts, String name) {
        return Json.number(counts, name).longValue();
    }
}
