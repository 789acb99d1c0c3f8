package codexturns;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.List;

/**
 * An event of a turn, as {@code docs/EVENTS.md} describes it. What is not always there is null if it is absent.
 *
 * <p>{@link Restarted} and {@link Unknown} are the reader's own. There may be more types in a later version.
 */
public sealed interface Event {
    /** What all events have. */
    Envelope envelope();

    default String turnId() {
        return envelope().turnId();
    }

    default int attempt() {
        return envelope().attempt();
    }

    default int seq() {
        return envelope().seq();
    }

    /**
     * What all events have.
     *
     * @param workspace the id of the turn's workspace; empty on rejections without a valid one, null from older workers
     * @param attempt how often the turn was started; 0 if it never was
     * @param seq 0, 1, 2 … within an attempt
     * @param time null if it can't be read
     * @param raw the event as it was published, with fields of newer workers
     */
    record Envelope(String turnId, String workspace, int attempt, int seq, Instant time, JsonObject raw) {}

    /** Always first. */
    record MessageStart(Envelope envelope, JsonObject metadata, String model) implements Event {}

    /** The agent's reasoning, or a part of it: join those of one item id. */
    record ThinkingDelta(Envelope envelope, String itemId, String text) implements Event {}

    /** A tool call starts. */
    record ToolUse(Envelope envelope, String id, String name, JsonElement input) implements Event {}

    /** A part of what a call prints while it runs; {@link ToolResult} has all of it. */
    record ToolOutput(Envelope envelope, String toolUseId, String text) implements Event {}

    /** A tool call's result. */
    record ToolResult(Envelope envelope, String toolUseId, String name, boolean isError, JsonElement content)
            implements Event {}

    /** The agent's to-do list, whole, each time it changes. */
    record Plan(Envelope envelope, List<PlanItem> items) implements Event {}

    record PlanItem(String text, boolean completed) {}

    /** What the attempt's agents have spent so far; {@link MessageEnd} has the total. */
    record UsageUpdate(Envelope envelope, Usage usage) implements Event {}

    /** Something worth knowing though the turn goes on. */
    record Notice(Envelope envelope, String code, String message) implements Event {}

    /** A message of the agent, or a part of one: join those of one item id. */
    record TextDelta(Envelope envelope, String itemId, String text) implements Event {}

    /** Why the turn did not complete: at most once, right before {@link MessageEnd}. */
    record Error(Envelope envelope, ErrorDetail error) implements Event {}

    /** The code and reason are of the tables in docs/EVENTS.md, or newer ones. */
    record ErrorDetail(String code, String message, String reason, boolean retryable) {}

    /**
     * Always last.
     *
     * @param stopReason {@code end_turn}, {@code error}, {@code cancelled} or {@code timeout}
     * @param text the agent's last message whole
     * @param structured the answer as JSON if the request had an output schema and the answer is JSON
     * @param usage null if it is unknown
     */
    record MessageEnd(
            Envelope envelope,
            String stopReason,
            String text,
            JsonElement structured,
            String threadId,
            String model,
            long durationMs,
            JsonObject metadata,
            Usage usage,
            String supersededBy)
            implements Event {}

    /** Cached tokens are a subset of input, thinking ones of output. */
    record Tokens(
            long inputTokens, long cacheReadTokens, long cacheWriteTokens, long outputTokens, long thinkingTokens) {}

    /**
     * What all agents of the turn spent, in all attempts.
     *
     * @param agents the share of its sub-agents; null if they are not known to have spent any
     */
    record Usage(
            long inputTokens,
            long cacheReadTokens,
            long cacheWriteTokens,
            long outputTokens,
            long thinkingTokens,
            Tokens agents) {}

    /** A higher attempt starts, since a worker died: discard the text so far. */
    record Restarted(Envelope envelope) implements Event {}

    /** An event of a newer worker, of a type or with fields that this version can't decode; see the envelope's raw. */
    record Unknown(Envelope envelope, String type) implements Event {}

    /** Decodes an event. Returns null if the body is no event, such as the probes in the event log. */
    static Event parse(byte[] body) {
        return EventDecoder.parse(new String(body, StandardCharsets.UTF_8));
    }
}
