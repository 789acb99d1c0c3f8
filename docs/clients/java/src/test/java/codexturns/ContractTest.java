package codexturns;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.Envelope;
import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.lang.reflect.RecordComponent;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * The library against the contract's files, in the folder that the variable CONTRACT names. Needs no broker, and no test framework:
 * its main method runs every method with a name that starts with "test".
 */
public final class ContractTest {
    private static final Path CONTRACT =
            Path.of(Objects.requireNonNullElse(System.getenv("CONTRACT"), "../../contract"));
    private static final Path EXAMPLES = CONTRACT.resolve("examples/v1");
    private static final Map<String, Class<? extends Record>> TYPES = Map.ofEntries(
            Map.entry("message_start", Event.MessageStart.class),
            Map.entry("thinking_delta", Event.ThinkingDelta.class),
            Map.entry("tool_use", Event.ToolUse.class),
            Map.entry("tool_output", Event.ToolOutput.class),
            Map.entry("tool_result", Event.ToolResult.class),
            Map.entry("plan", Event.Plan.class),
            Map.entry("usage", Event.UsageUpdate.class),
            Map.entry("notice", Event.Notice.class),
            Map.entry("text_delta", Event.TextDelta.class),
            Map.entry("error", Event.Error.class),
            Map.entry("message_end", Event.MessageEnd.class));

    private ContractTest() {}

    static void testTypesHaveTheFieldsOfTheSchema() throws IOException {
        JsonObject definitions = read(CONTRACT.resolve("event.schema.json")).getAsJsonObject("$defs");
        Set<String> kinds = new TreeSet<>();
        for (String name : definitions.keySet()) {
            JsonObject properties = definitions.getAsJsonObject(name).getAsJsonObject("properties");
            JsonObject type = properties == null ? null : properties.getAsJsonObject("type");
            if (type == null) continue;
            String kind = type.get("const").getAsString();
            kinds.add(kind);
            Set<String> expected = new TreeSet<>(properties.keySet());
            expected.removeAll(fieldsOf(Event.Envelope.class));
            expected.remove("type");
            Set<String> found = fieldsOf(TYPES.get(kind));
            found.remove("envelope");
            equal(kind, found, expected);
        }
        equal("types", kinds, new TreeSet<>(TYPES.keySet()));
        equal("Usage", fieldsOf(Event.Usage.class), propertiesOf(definitions, "Usage"));
        equal("Tokens", fieldsOf(Event.Tokens.class), propertiesOf(definitions, "Tokens"));
        equal("TurnError", fieldsOf(Event.ErrorDetail.class), propertiesOf(definitions, "TurnError"));
        equal("PlanItem", fieldsOf(Event.PlanItem.class), propertiesOf(definitions, "PlanItem"));
    }

    static void testRequestsHaveTheFieldsOfTheSchema() throws IOException {
        Set<String> fields = Arrays.stream(Request.class.getMethods())
                .filter(method -> method.getReturnType() == Request.class)
                .map(method -> snake(method.getName()))
                .collect(Collectors.toCollection(TreeSet::new));
        fields.removeAll(Set.of("image", "keep_running"));
        fields.addAll(Set.of("workspace", "messages"));
        equal("request", fields, new TreeSet<>(read(CONTRACT.resolve("request.schema.json")).getAsJsonObject("properties").keySet()));
    }

    static void testEveryExampleOfAnEventIsDecodedWithAllItsFields() throws Exception {
        for (Path path : files("events", ".json")) {
            JsonObject raw = read(path);
            Event event = Event.parse(Files.readAllBytes(path));
            equal(path.toString(), event.getClass(), TYPES.get(raw.get("type").getAsString()));
            for (RecordComponent component : event.getClass().getRecordComponents()) {
                if (component.getName().equals("envelope")) continue;
                JsonElement published = raw.get(snake(component.getName()));
                Object value = component.getAccessor().invoke(event);
                equal(path + " " + component.getName(), json(value), published == null ? JsonNull.INSTANCE : published);
            }
            Event.Envelope envelope = event.envelope();
            equal(path + " time", envelope.time() != null, true);
            equal(path + " workspace", json(envelope.workspace()), raw.has("workspace") ? raw.get("workspace") : JsonNull.INSTANCE);
        }
    }

    static void testTurnsAreReadAsTheyAreToBeRead() throws IOException {
        for (Path path : files("turns", ".jsonl")) {
            Path expected = Path.of(path.toString().replaceAll("jsonl$", "read.json"));
            equal(path.toString(), asRead(path), read(expected));
        }
    }

    static void testWhatIsNoEventIsNullAndWhatIsNewerIsKept() {
        for (String body : List.of("{}", "[]", "null", "", "\u00ff", "{\"turn_id\":\"t\"}", "{\"turn_id\":\"t\",\"attempt\":\"1\",\"seq\":0,\"type\":\"plan\"}")) {
            equal(body, parse(body), null);
        }
        Event newer = parse("{\"turn_id\":\"t\",\"attempt\":1,\"seq\":2,\"type\":\"text_delta\",\"pieces\":[\"a\"]}");
        equal("newer", newer instanceof Event.Unknown unknown ? unknown.type() : newer, "text_delta");
        Event end = parse("{\"turn_id\":\"t\",\"attempt\":1,\"seq\":2,\"type\":\"message_end\",\"stop_reason\":\"end_turn\",\"usage\":[]}");
        equal("end", end instanceof Event.MessageEnd last ? last.stopReason() : end, "end_turn");
    }

    static void testAPathNamesTheWorkspaceThatItEndsWith() {
        TurnReader reader = new TurnReader("t", "/srv/workspaces/./acme/website/");
        for (String theirs : List.of("mallorys", "site", "acme/website", "website")) {
            Event event = parse("{\"turn_id\":\"t\",\"workspace\":\"" + theirs + "\",\"attempt\":1,\"seq\":0,\"type\":\"message_start\"}");
            equal(theirs, reader.take(event) != null, theirs.equals("acme/website"));
        }
    }

    static void testARequestHasWhatWasGiven() {
        Request request = new Request("Grüße <&>", "acme/website")
                .turnId("t-1")
                .timeoutS(60)
                .metadata(Map.of("a", 1))
                .image("shots/now.png")
                .image("image/png", new byte[] {1});
        String expected = "{\"turn_id\":\"t-1\",\"workspace\":\"acme/website\",\"timeout_s\":60,\"metadata\":{\"a\":1},"
                + "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Grüße <&>\"},"
                + "{\"type\":\"image\",\"source\":{\"type\":\"path\",\"path\":\"shots/now.png\"}},"
                + "{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"AQ==\"}}]}]}";
        equal("request", new String(request.encode(), StandardCharsets.UTF_8), expected);
        equal("ids", new Request("a", "w").turnId().equals(new Request("a", "w").turnId()), false);
    }

    static void testWhatNoWorkerCanReadIsRefusedAtOnce() {
        for (String prompt : List.of("\ud83d", "a".repeat(Request.MAX_BODY_BYTES))) {
            try {
                new Request(prompt, "w").encode();
                throw new AssertionError("it was encoded");
            } catch (IllegalArgumentException error) {
                // As expected.
            }
        }
    }

    static void testFailuresAreTyped() {
        equal("error", failure("error", 1).getClass(), TurnFailed.class);
        equal("rejection", failure("error", 0).getClass(), TurnFailed.Rejected.class);
        equal("timeout", failure("timeout", 1).getClass(), TurnFailed.TimedOut.class);
        equal("cancel", failure("cancelled", 0).getClass(), TurnFailed.Cancelled.class);
        equal("retryable", failure("error", 0).retryable(), true);
    }

    static void testRepliesAreRead() {
        String end = "{\"turn_id\":\"t\",\"workspace\":\"w\",\"attempt\":0,\"seq\":2,\"type\":\"message_end\",\"stop_reason\":\"error\",\"duration_ms\":0}";
        Map<String, Object> headers = Map.of(
                "x-error-code", "workspace.busy", "x-error-reason", "unknown", "x-error-message", "busy", "x-error-retryable", true);
        try {
            Replies.answerOf("t", reply(end, headers));
            throw new AssertionError("it is an answer");
        } catch (TurnFailed.Rejected failed) {
            equal("reply", List.of(failed.code(), failed.getMessage(), failed.retryable()), List.of("workspace.busy", "busy", true));
        }
        Map<String, Description> descriptions = Map.of(
                "\"state\":\"unknown\",\"unread\":12", new Description.Unknown("t", "w", 12),
                "\"state\":\"waiting\",\"place\":1,\"paused\":true", new Description.Waiting("t", "w", 1, true));
        descriptions.forEach((fields, expected) -> {
            String body = "{\"turn_id\":\"t\",\"workspace\":\"w\"," + fields + "}";
            equal(body, Replies.descriptionOf(reply(body, Map.of())), expected);
        });
        String running = "{\"turn_id\":\"t\",\"workspace\":\"w\",\"state\":\"running\",\"attempt\":2,\"since\":\"2026-01-02T03:04:05.678Z\"}";
        equal("running", Replies.descriptionOf(reply(running, Map.of())) instanceof Description.Running now && now.attempt() == 2, true);
        String ended = "{\"turn_id\":\"t\",\"workspace\":\"w\",\"state\":\"ended\",\"end\":" + end + "}";
        equal("ended", Replies.descriptionOf(reply(ended, Map.of())) instanceof Description.Ended last && last.error() == null, true);
        String newer = "{\"turn_id\":\"t\",\"workspace\":\"w\",\"state\":\"asleep\"}";
        equal("newer", Replies.descriptionOf(reply(newer, Map.of())) instanceof Description.Other, true);
    }

    private static Delivery reply(String body, Map<String, Object> headers) {
        AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder().headers(headers).build();
        return new Delivery(new Envelope(1, false, "", ""), properties, body.getBytes(StandardCharsets.UTF_8));
    }

    private static TurnFailed failure(String stopReason, int attempt) {
        Event.Envelope envelope = new Event.Envelope("t", "w", attempt, 0, null, new JsonObject());
        Event.MessageEnd end = new Event.MessageEnd(envelope, stopReason, null, null, null, null, 0, null, null, null);
        try {
            throw new AssertionError(TurnReader.answer(end, new Event.ErrorDetail("a.b", "why", "unknown", true), ""));
        } catch (TurnFailed failed) {
            return failed;
        }
    }

    private static JsonObject asRead(Path path) throws IOException {
        TurnReader reader = new TurnReader("t-01", "acme/website");
        JsonArray taken = new JsonArray();
        JsonArray restarts = new JsonArray();
        int number = 0;
        for (String line : Files.readAllLines(path)) {
            Event event = parse(line);
            TurnReader.Taken how = event == null ? null : reader.take(event);
            if (how != null) taken.add(number);
            if (how != null && how.restarted()) restarts.add(number);
            number++;
        }
        JsonArray texts = new JsonArray();
        reader.texts().forEach((itemId, text) -> {
            JsonObject joined = new JsonObject();
            joined.addProperty("item_id", itemId);
            joined.addProperty("text", text);
            texts.add(joined);
        });
        JsonObject end = reader.end().envelope().raw();
        JsonObject read = new JsonObject();
        read.add("taken", taken);
        read.add("restarts", restarts);
        read.add("texts", texts);
        read.add("error", reader.error() == null ? JsonNull.INSTANCE : json(reader.error()));
        for (String name : List.of("stop_reason", "text", "usage")) {
            read.add(name, end.has(name) ? end.get(name) : JsonNull.INSTANCE);
        }
        return read;
    }

    private static Event parse(String body) {
        return Event.parse(body.getBytes(StandardCharsets.UTF_8));
    }

    private static JsonObject read(Path path) throws IOException {
        return JsonParser.parseString(Files.readString(path)).getAsJsonObject();
    }

    private static List<Path> files(String folder, String suffix) throws IOException {
        try (Stream<Path> all = Files.list(EXAMPLES.resolve(folder))) {
            List<Path> files = all.filter(path -> path.toString().endsWith(suffix)).sorted().toList();
            equal(folder + " is empty", files.isEmpty(), false);
            return files;
        }
    }

    private static Set<String> propertiesOf(JsonObject definitions, String name) {
        return new TreeSet<>(definitions.getAsJsonObject(name).getAsJsonObject("properties").keySet());
    }

    private static Set<String> fieldsOf(Class<? extends Record> type) {
        return Arrays.stream(type.getRecordComponents())
                .map(component -> snake(component.getName()))
                .collect(Collectors.toCollection(TreeSet::new));
    }

    private static String snake(String name) {
        return name.replaceAll("([A-Z])", "_$1").toLowerCase(java.util.Locale.ROOT);
    }

    /** A value as it is published; absent fields of records are left out. */
    private static JsonElement json(Object value) {
        if (value == null) return JsonNull.INSTANCE;
        if (value instanceof JsonElement element) return element;
        if (value instanceof String text) return new JsonPrimitive(text);
        if (value instanceof Number number) return new JsonPrimitive(number);
        if (value instanceof Boolean flag) return new JsonPrimitive(flag);
        if (value instanceof List<?> list) {
            JsonArray array = new JsonArray();
            list.forEach(each -> array.add(json(each)));
            return array;
        }
        JsonObject object = new JsonObject();
        for (RecordComponent component : value.getClass().getRecordComponents()) {
            try {
                Object field = component.getAccessor().invoke(value);
                if (field != null) object.add(snake(component.getName()), json(field));
            } catch (IllegalAccessException | InvocationTargetException error) {
                throw new AssertionError(error);
            }
        }
        return object;
    }

    private static void equal(String what, Object found, Object expected) {
        if (!Objects.equals(found, expected)) {
            throw new AssertionError(what + ": found " + found + ", expected " + expected);
        }
    }

    public static void main(String[] arguments) throws IllegalAccessException {
        List<String> failed = new ArrayList<>();
        for (Method test : ContractTest.class.getDeclaredMethods()) {
            if (!test.getName().startsWith("test") || !Modifier.isStatic(test.getModifiers())) continue;
            try {
                test.invoke(null);
            } catch (InvocationTargetException error) {
                failed.add(test.getName() + ": " + error.getCause());
            }
        }
        failed.forEach(System.err::println);
        System.exit(failed.isEmpty() ? 0 : 1);
    }
}
