package codexturns;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.UUID;

/** A turn to be run, with the optional fields of a request: see "Requests" in docs/EVENTS.md. */
public final class Request {
    /** The largest request that a worker can be set to accept; by default it is 256 KiB. */
    public static final int MAX_BODY_BYTES = 8 << 20;

    private final JsonObject fields = new JsonObject();
    private final String prompt;
    private final JsonArray images = new JsonArray();
    private boolean mayBeKnown;
    private boolean keepRunning;

    public Request(String prompt, String workspace) {
        this.prompt = prompt;
        set("turn_id", UUID.randomUUID().toString());
        set("workspace", workspace);
    }

    /**
     * A new UUID by default. Choose it yourself, and keep it, to be able to send the turn again after a crash of your own: a turn
     * runs once, however often it is sent.
     */
    public Request turnId(String turnId) {
        mayBeKnown = true;
        return set("turn_id", turnId);
    }

    public Request model(String model) {
        return set("model", model);
    }

    /** {@code none}, {@code minimal}, {@code low}, {@code medium}, {@code high}, {@code xhigh}, {@code max} or {@code ultra}. */
    public Request reasoningEffort(String effort) {
        return set("reasoning_effort", effort);
    }

    /** {@code default}, {@code flex} or {@code priority}. */
    public Request serviceTier(String tier) {
        return set("service_tier", tier);
    }

    /** The tenant that the turn runs for, for the operator's metrics and pauses. */
    public Request tenant(String tenant) {
        return set("tenant", tenant);
    }

    public Request timeoutS(int seconds) {
        return set("timeout_s", seconds);
    }

    public Request maxAttempts(int attempts) {
        return set("max_attempts", attempts);
    }

    public Request startWithinS(int seconds) {
        return set("start_within_s", seconds);
    }

    /** {@code enqueue}, {@code reject} or {@code interrupt}. */
    public Request onBusy(String choice) {
        return set("on_busy", choice);
    }

    /** {@code continue}, {@code new} or {@code continue_or_new}. */
    public Request thread(String choice) {
        return set("thread", choice);
    }

    /** Anything that Gson writes as an object; comes back on the first and the last event. */
    public Request metadata(Object metadata) {
        return set("metadata", metadata);
    }

    /** Anything that Gson writes as a JSON Schema. */
    public Request outputSchema(Object schema) {
        return set("output_schema", schema);
    }

    /** RFC 3339, such as {@code Instant.now().toString()}. */
    public Request enqueuedAt(String time) {
        return set("enqueued_at", time);
    }

    public Request traceparent(String traceparent) {
        return set("traceparent", traceparent);
    }

    public Request tracestate(String tracestate) {
        return set("tracestate", tracestate);
    }

    /** An image that is a file in the workspace. */
    public Request image(String path) {
        JsonObject source = new JsonObject();
        source.addProperty("type", "path");
        source.addProperty("path", path);
        return image(source);
    }

    /** @param mediaType {@code image/png}, {@code image/jpeg}, {@code image/gif} or {@code image/webp} */
    public Request image(String mediaType, byte[] data) {
        JsonObject source = new JsonObject();
        source.addProperty("type", "base64");
        source.addProperty("media_type", mediaType);
        source.addProperty("data", Base64.getEncoder().encodeToString(data));
        return image(source);
    }

    /** Leaves the turn running when its reader leaves, in place of cancelling it. */
    public Request keepRunning() {
        keepRunning = true;
        return this;
    }

    public String turnId() {
        return fields.get("turn_id").getAsString();
    }

    public String workspace() {
        return fields.get("workspace").getAsString();
    }

    boolean mayBeKnown() {
        return mayBeKnown;
    }

    boolean isKeptRunning() {
        return keepRunning;
    }

    /** Throws {@code IllegalArgumentException} for a lone surrogate and for what is larger than any worker accepts. */
    byte[] encode() {
        JsonObject message = new JsonObject();
        message.addProperty("role", "user");
        message.add("content", content());
        JsonArray messages = new JsonArray();
        messages.add(message);
        JsonObject request = fields.deepCopy();
        request.add("messages", messages);
        ByteBuffer body;
        try {
            body = StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(Json.GSON.toJson(request)));
        } catch (CharacterCodingException error) {
            throw new IllegalArgumentException("the request has a lone surrogate: a character was cut in two", error);
        }
        if (body.remaining() > MAX_BODY_BYTES) {
            throw new IllegalArgumentException(
                    "the request has " + body.remaining() + " bytes, expected at most " + MAX_BODY_BYTES);
        }
        byte[] bytes = new byte[body.remaining()];
        body.get(bytes);
        return bytes;
    }

    private JsonElement content() {
        if (images.isEmpty()) return new JsonPrimitive(prompt);
        JsonObject text = new JsonObject();
        text.addProperty("type", "text");
        text.addProperty("text", prompt);
        JsonArray blocks = new JsonArray();
        blocks.add(text);
        blocks.addAll(images);
        return blocks;
    }

    private Request image(JsonObject source) {
        JsonObject block = new JsonObject();
        block.addProperty("type", "image");
        block.add("source", source);
        images.add(block);
        return this;
    }

    private Request set(String name, Object value) {
        fields.add(name, Json.GSON.toJsonTree(value));
        return this;
    }
}
