import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Sends prompts to a workspace, each a turn of the same conversation, and prints the answers as they come.
 *
 * <pre>AMQP_URL=amqp://… java -cp … Producer WORKSPACE PROMPT [PROMPT…]
 * AMQP_URL=amqp://… java -cp … Producer --tail TURN_ID [WORKSPACE]</pre>
 *
 * The second form comes late: it prints a turn from the event log, if the operator keeps one, and follows it to its end.
 *
 * Ctrl-C cancels the turn, and leaves after a minute in which its end did not come. Exit status: 0 if every turn came to
 * its end, 124 if one ran out of time, 130 if it was cancelled, 2 for wrong arguments, 1 for everything else.
 */
public class Producer {
    private static final Map<String, Integer> EXIT_STATUS = Map.of("end_turn", 0, "timeout", 124, "cancelled", 130);
    private static final int QUEUE_LIFETIME_MS = 10 * 60 * 1000; // how long events wait for a reader that is gone
    private static final int RECONNECT_PAUSE_MS = 1000;
    private static final int CANCEL_PAUSE_MS = 5000;
    private static final int LEAVE_AFTER_S = 60;
    private static final int MAX_CHUNK = 65_535; // messages of a chunk of the log, which is delivered whole
    private static final int QUIET_MS = 1000; // after the newest message: what stands in one chunk with it comes at once
    private static final int SILENT_MS = 10_000; // nothing at all comes: the log is empty

    private static final Gson GSON = new Gson();
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private static final PrintStream ERR = new PrintStream(System.err, true, StandardCharsets.UTF_8);

    private static volatile boolean interrupted;

    /** The broker does not take it, and would not if it were sent again. */
    static class Refused extends IOException {
        Refused(String message) {
            super(message);
        }
    }

    /** No queue takes it. */
    static class Unroutable extends Refused {
        Unroutable(String message) {
            super(message);
        }
    }

    static boolean isRefusal(Throwable error) {
        if (error instanceof ShutdownSignalException) {
            return !((ShutdownSignalException) error).isHardError(); // it has closed the channel, not the connection
        }
        return error instanceof Refused || error.getCause() != null && isRefusal(error.getCause());
    }

    static void say(String text) {
        ERR.println(text);
    }

    /** A connection, and a queue for events that outlives it: what comes while there is none waits there. */
    static class Broker {
        private final ConnectionFactory factory = new ConnectionFactory();
        private final String queue;
        private Connection connection;
        private Channel channel;
        private volatile boolean returned;
        private BlockingQueue<Delivery> deliveries;

        Broker(String url) throws Exception {
            factory.setUri(url);
            factory.setAutomaticRecoveryEnabled(false); // the turn has to be sent again, too
            queue = factory.getUsername() + "." + UUID.randomUUID();
            connect();
        }

        private void connect() throws IOException, TimeoutException {
            connection = factory.newConnection();
            channel = connection.createChannel();
            channel.confirmSelect();
            channel.addReturnListener((code, text, exchange, key, properties, body) -> returned = true);
            channel.basicQos(100);
            channel.queueDeclare(queue, true, false, false, Map.of("x-expires", QUEUE_LIFETIME_MS));
            BlockingQueue<Delivery> arrived = new LinkedBlockingQueue<>();
            channel.basicConsume(
                    queue,
                    (tag, delivery) -> arrived.add(delivery),
                    tag -> connection.abort()); // the queue was deleted: begin anew
            deliveries = arrived;
        }

        void reconnect() throws IOException, InterruptedException {
            connection.abort();
            while (true) {
                try {
                    connect();
                    return;
                } catch (TimeoutException error) {
                    Thread.sleep(RECONNECT_PAUSE_MS);
                } catch (IOException | ShutdownSignalException error) {
                    if (isRefusal(error)) throw error;
                    Thread.sleep(RECONNECT_PAUSE_MS);
                }
            }
        }

        void close() {
            try {
                channel.queueDelete(queue);
                connection.close();
            } catch (IOException | ShutdownSignalException error) {
                // Lost, and nobody needs it any more; the queue goes when its time is up.
            }
        }

        void bind(String turnId) throws IOException {
            channel.queueBind(queue, "codex.events", turnId);
        }

        void enqueue(Map<String, Object> request) throws IOException, InterruptedException {
            publish("codex.requests", "turn", request);
        }

        void cancel(String turnId) throws IOException, InterruptedException {
            try {
                publish("codex.control", "", Map.of("action", "cancel", "turn_id", turnId));
            } catch (Unroutable error) {
                say("no worker is connected, so the cancel is repeated until one is");
            }
        }

        /** Returns when the broker has it, and throws when it does not. */
        private void publish(String exchange, String key, Map<String, Object> message)
                throws IOException, InterruptedException {
            BasicProperties properties = new BasicProperties.Builder()
                    .contentType("application/json")
                    .deliveryMode(2) // survives a restart of the broker
                    .messageId((String) message.get("turn_id")) // rejections are published under it
                    .timestamp(new Date())
                    .build();
            returned = false;
            channel.basicPublish(exchange, key, true, properties, GSON.toJson(message).getBytes(StandardCharsets.UTF_8));
            if (!channel.waitForConfirms()) throw new Refused(exchange + " refuses it");
            if (returned) throw new Unroutable("no queue is bound to " + exchange);
        }

        /** The next event; null when none comes for a moment. */
        Delivery next() throws IOException, InterruptedException {
            Delivery delivery = deliveries.poll(200, TimeUnit.MILLISECONDS);
            if (delivery == null && !channel.isOpen()) throw new IOException("the channel is closed");
            return delivery;
        }

        void ack(Delivery delivery) throws IOException {
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
        }
    }

    /** Shows the events of one turn, each once. */
    static class Reader {
        private final String turnId;
        private String workspace;
        private String stopReason; // once it has ended
        private int attempt = 0;
        private int seq = -1;
        private String itemId = "";
        private String text = ""; // of the message that came last
        private boolean lineIsOpen;

        Reader(String turnId, String workspace) {
            this.turnId = turnId;
            // Without one, that of the first event is read; also with a path, which only a worker can tell the id of.
            this.workspace = workspace == null || workspace.startsWith("/") ? null : workspace;
        }

        /** Any producer can send a turn under our id, for a workspace of its own. */
        private boolean isOurs(JsonObject event) {
            if (!event.has("turn_id") || !event.get("turn_id").getAsString().equals(turnId)) return false;
            String itsWorkspace = event.has("workspace") ? event.get("workspace").getAsString() : "";
            if (itsWorkspace.isEmpty()) return true; // an older worker's event, or a rejection that could not tell it
            if (workspace == null) workspace = itsWorkspace;
            return itsWorkspace.equals(workspace);
        }

        void take(JsonObject event) {
            if (!isOurs(event)) return;
            int itsAttempt = event.get("attempt").getAsInt();
            int itsSeq = event.get("seq").getAsInt();
            if (itsAttempt < attempt || itsAttempt == attempt && itsSeq <= seq) return; // told before
            if (itsAttempt > attempt && seq >= 0) {
                beginMessage("");
                say("attempt " + itsAttempt + ": it starts again, forget the text so far");
            }
            attempt = itsAttempt;
            seq = itsSeq;

            switch (event.get("type").getAsString()) {
                case "text_delta":
                    String itsItem = event.get("item_id").getAsString();
                    if (!itsItem.equals(itemId)) beginMessage(itsItem);
                    show(event.get("text").getAsString());
                    break;
                case "error":
                    endLine();
                    JsonObject error = event.getAsJsonObject("error");
                    say(error.get("code").getAsString() + ": " + error.get("message").getAsString());
                    break;
                case "message_end":
                    if (event.has("text") && !event.get("text").getAsString().equals(text)) {
                        beginMessage(""); // pieces of it were missed
                        show(event.get("text").getAsString());
                    }
                    endLine();
                    stopReason = event.get("stop_reason").getAsString();
                    say(stopReason + ", tokens: " + event.get("usage"));
                    break;
                default: // not shown here
            }
        }

        private void beginMessage(String itsItem) {
            endLine();
            itemId = itsItem;
            text = "";
        }

        private void show(String piece) {
            OUT.print(piece);
            OUT.flush();
            text += piece;
            lineIsOpen = true;
        }

        private void endLine() {
            if (lineIsOpen) OUT.println();
            lineIsOpen = false;
        }
    }

    /** Sends the turn and reads to its end. Safe to call again: a turn runs once, however often it is sent. */
    static void follow(Broker broker, Map<String, Object> request, Reader reader)
            throws IOException, InterruptedException {
        String turnId = (String) request.get("turn_id");
        // Bind before you publish: what is published while nobody is bound is gone.
        broker.bind(turnId);
        broker.enqueue(request);
        long nextCancel = 0;
        while (reader.stopReason == null) {
            if (interrupted && System.currentTimeMillis() >= nextCancel) {
                broker.cancel(turnId); // and again, for nobody may have heard it
                nextCancel = System.currentTimeMillis() + CANCEL_PAUSE_MS;
            }
            Delivery delivery = broker.next();
            if (delivery == null) continue;
            JsonObject event = GSON.fromJson(new String(delivery.getBody(), StandardCharsets.UTF_8), JsonObject.class);
            reader.take(event);
            broker.ack(delivery);
        }
    }

    /** Returns how it ended, over as many connections as that takes. */
    static String runTurn(Broker broker, String workspace, String prompt) throws IOException, InterruptedException {
        String turnId = UUID.randomUUID().toString();
        Map<String, Object> request = Map.of(
                "turn_id", turnId,
                "workspace", workspace,
                "messages", List.of(Map.of("role", "user", "content", prompt)));
        Reader reader = new Reader(turnId, workspace);
        say("turn " + turnId);
        while (reader.stopReason == null) {
            try {
                follow(broker, request, reader);
            } catch (IOException | ShutdownSignalException error) {
                if (isRefusal(error)) throw error;
                say("lost the broker: " + error);
                broker.reconnect();
                say("connected again");
            }
        }
        return reader.stopReason;
    }

    /** Prints a turn from the event log. Returns how it ended, over as many connections as that takes. */
    static String tail(String url, String turnId, String workspace) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(url);
        factory.setAutomaticRecoveryEnabled(false);
        Reader reader = new Reader(turnId, workspace);
        Object offset = "first";
        while (true) {
            try (Connection connection = factory.newConnection()) {
                Delivery newest = newest(connection);
                List<String> filter = new ArrayList<>(List.of(turnId));
                if (newest != null && newest.getProperties().getHeaders().get("x-stream-filter-value") != null) {
                    filter.add(newest.getProperties().getHeaders().get("x-stream-filter-value").toString());
                }
                Channel channel = connection.createChannel();
                BlockingQueue<Delivery> deliveries =
                        readLog(channel, Map.of("x-stream-offset", offset, "x-stream-filter", filter));
                long caughtUp = System.currentTimeMillis() + (newest == null ? QUIET_MS : SILENT_MS);
                while (reader.stopReason == null && !interrupted) {
                    Delivery delivery = deliveries.poll(200, TimeUnit.MILLISECONDS);
                    if (delivery == null && !channel.isOpen()) throw new IOException("the channel is closed");
                    if (delivery == null && reader.seq < 0 && System.currentTimeMillis() > caughtUp) {
                        throw new Refused("the event log has nothing of turn " + turnId
                                + ": it has not begun, is older than the log, or never was");
                    }
                    if (delivery == null) continue;
                    offset = offsetOf(delivery) + 1;
                    caughtUp = System.currentTimeMillis() + patience(offsetOf(delivery), newest);
                    JsonObject event =
                            GSON.fromJson(new String(delivery.getBody(), StandardCharsets.UTF_8), JsonObject.class);
                    reader.take(event); // the filter lets others through, too
                    channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
                }
                return reader.stopReason == null ? "cancelled" : reader.stopReason;
            } catch (IOException | ShutdownSignalException error) {
                if (reader.stopReason != null) return reader.stopReason;
                if (isRefusal(error) || offset.equals("first")) throw error;
                say("lost the broker: " + error);
                Thread.sleep(RECONNECT_PAUSE_MS);
            }
        }
    }

    private static BlockingQueue<Delivery> readLog(Channel channel, Map<String, Object> arguments) throws IOException {
        BlockingQueue<Delivery> deliveries = new LinkedBlockingQueue<>();
        channel.basicQos(100); // a stream has no consumer without
        channel.basicConsume(
                "codex.events.log",
                false,
                arguments,
                (tag, delivery) -> deliveries.add(delivery),
                tag -> channel.getConnection().abort()); // the log was deleted
        return deliveries;
    }

    /** The log's newest message, or null if there is none: once it has come by, all that the log had has. */
    private static Delivery newest(Connection connection) throws IOException, InterruptedException, TimeoutException {
        Channel channel = connection.createChannel();
        Delivery newest = readLog(channel, Map.of("x-stream-offset", "last")).poll(SILENT_MS, TimeUnit.MILLISECONDS);
        channel.close();
        return newest;
    }

    private static long offsetOf(Delivery delivery) {
        return (Long) delivery.getProperties().getHeaders().get("x-stream-offset");
    }

    /** How long to wait for another message before the log is taken to be read, in milliseconds. */
    private static long patience(long offset, Delivery newest) {
        if (newest == null || offset < offsetOf(newest)) return SILENT_MS;
        return offset > offsetOf(newest) + MAX_CHUNK ? 0 : QUIET_MS;
    }

    static int run(String[] arguments) {
        if (arguments.length < 2) {
            say("usage: Producer WORKSPACE PROMPT [PROMPT…]\n       Producer --tail TURN_ID [WORKSPACE]");
            return 2;
        }
        String url = System.getenv().getOrDefault("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f");
        try {
            if (arguments[0].equals("--tail")) {
                String workspace = arguments.length > 2 ? arguments[2] : null;
                return EXIT_STATUS.getOrDefault(tail(url, arguments[1], workspace), 1);
            }
            Broker broker = new Broker(url);
            String stopReason = "";
            for (String prompt : Arrays.asList(arguments).subList(1, arguments.length)) {
                stopReason = runTurn(broker, arguments[0], prompt);
                if (!stopReason.equals("end_turn")) break;
            }
            broker.close();
            return EXIT_STATUS.getOrDefault(stopReason, 1);
        } catch (Exception error) {
            say("can't go on: " + (error.getCause() == null ? error : error.getCause()));
            return 1;
        }
    }

    public static void main(String[] arguments) {
        CompletableFuture<Integer> status = new CompletableFuture<>();
        // Runs on Ctrl-C, and at the end.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            interrupted = true;
            Runtime.getRuntime().halt(status.completeOnTimeout(130, LEAVE_AFTER_S, TimeUnit.SECONDS).join());
        }));
        status.complete(run(arguments));
        System.exit(status.join());
    }
}
