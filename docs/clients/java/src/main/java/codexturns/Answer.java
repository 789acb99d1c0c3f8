package codexturns;

import com.google.gson.JsonElement;

/**
 * How a turn ended that completed.
 *
 * @param text the agent's last message
 * @param structured the answer as JSON if the request has an output schema; null if the answer is not JSON
 * @param end the turn's last event, with usage, thread id, metadata and more
 */
public record Answer(String turnId, String text, JsonElement structured, Event.MessageEnd end) {}
