package codexturns;

import com.google.gson.JsonObject;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import java.net.URI;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Consumer;
import java.util.function.Function;

/**
 * Sends turns and reads their answers: many at a time over one connection and one queue, for any number of threads.
 *
 * <p>It reconnects by itself, and sends again what may not have arrived: a turn runs once, however often it is sent.
 */
public final class TurnClient implements AutoCloseable {
    private static final String REQUEST_KEY = "turn";
    private static final long CANCEL_PAUSE_MS = 5_000;
    private static final long UNHEARD_PAUSE_MS = 2_000;
    private static final long ASK_AGAIN_MS = 5_000;
    private static final long ASK_AGAIN_AT_MOST_MS = 300_000;
    private static final long RECONNECT_PAUSE_MS = 200;
    private static final long RECONNECT_PAUSE_AT_MOST_MS = 10_000;
    private static final int REFUSALS_AT_MOST = 5;
    private static final long LEAVE_AFTER_MS = 5_000;
    private static final long TICK_MS = 500;
    private static final long REPLY_PAUSE_MS = 30_000;
    private static final long QUESTION_PAUSE_MS = 3_000;
    private static final Duration ANSWER_TIME = Duration.ofSeconds(15);

    private final String url;
    private final Options options;
    private final Names names;
    private final Map<String, Turn> turns = new ConcurrentHashMap<>();
    private final Map<String, Question> questions = new ConcurrentHashMap<>();
    private final Set<CompletableFuture<?>> leaving = ConcurrentHashMap.newKeySet();
    private volatile boolean isClosed;

    /** All that follows is used on this thread only: turns are sent in the order in which they were given. */
    private final ScheduledExecutorService loop = Executors.newSingleThreadScheduledExecutor(work -> {
        Thread thread = new Thread(work, "codex-turn-client");
        thread.setDaemon(true);
        return thread;
    });

    private final List<Runnable> waitingForLink = new ArrayList<>();
    private Link link; // null while it is lost
    private String queue;
    private boolean wantsToRead;
    private Link readsOn;
    private Runnable stopReading = () -> {};

    /** Options of a client, all of which have defaults. */
    public static final class Options {
        private Names names = Names.of("codex");
        private String queue;
        private Duration queueLifetime = Duration.ofMinutes(10);
        private int prefetch = 200;
        private int bufferLimit = 10_000;
        private Consumer<String> onStatus = status -> {};
        private Consumer<ConnectionFactory> configure = factory -> {};

        /** The workers' setting {@code TURN_WORKER_PREFIX}; {@code codex} by default. */
        public Options prefix(String prefix) {
            return names(Names.of(prefix));
        }

        /** The names of the workers' exchanges, if they don't follow from the prefix. */
        public Options names(Names names) {
            this.names = names;
            return this;
        }

        /**
         * The name of the queue for events. By default it is the user's name, a dot and a UUID, and the queue is deleted when the
         * client is closed. A queue with a name of yours is kept: events wait in it while the process is down.
         */
        public Options queue(String queue) {
            this.queue = queue;
            return this;
        }

        /** How long the broker keeps a queue that is not read; 10 minutes by default. */
        public Options queueLifetime(Duration lifetime) {
            this.queueLifetime = lifetime;
            return this;
        }

        /** How many events may be in flight to this client; 200 by default. */
        public Options prefetch(int prefetch) {
            this.prefetch = prefetch;
            return this;
        }

        /**
         * How many events of a turn are kept for a reader that is slower than they come; 10,000 by default. Past it, pieces are
         * dropped and counted in {@link Turn#missed}, never the end.
         */
        public Options bufferLimit(int events) {
            this.bufferLimit = events;
            return this;
        }

        /** Gets a line of text when the connection is lost and back, and when no worker hears a cancel. */
        public Options onStatus(Consumer<String> onStatus) {
            this.onStatus = onStatus;
            return this;
        }

        /** Changes each connection before it is opened: certificates, timeouts, a proxy. */
        public Options configure(Consumer<ConnectionFactory> configure) {
            this.configure = configure;
            return this;
        }
    }

    /** A message with an awaited reply. */
    private final class Question {
        final String correlationId;
        final String exchange;
        final String key;
        final byte[] body;
        final CompletableFuture<Delivery> reply = new CompletableFuture<>();
        Link sentOn;
        long pauseMs;
        long pauseAtMostMs;
        long againAt;

        Question(String correlationId, String exchange, String key, byte[] body, long pauseMs, long pauseAtMostMs) {
            this.correlationId = correlationId;
            this.exchange = exchange;
            this.key = key;
            this.body = body;
            this.pauseMs = pauseMs;
            this.pauseAtMostMs = pauseAtMostMs;
        }

        void sendIfDue() {
            if (link == null || sentOn == link && now() < againAt) return;
            sentOn = link;
            againAt = now() + pauseMs;
            pauseMs = Math.min(2 * pauseMs, pauseAtMostMs);
            // If no worker hears a question now, one may later.
            link.ask(exchange, key, correlationId, correlationId, body).whenComplete((done, error) -> {
                boolean isFinal = !(error instanceof Link.Lost)
                        && !(error instanceof TurnClientException.NoWorker && exchange.equals(names.control()));
                if (error != null && isFinal) reply.completeExceptionally(error);
            });
        }
    }

    private TurnClient(String url, Options options) {
        this.url = url;
        this.options = options;
        this.names = options.names;
        this.queue = newQueue();
        this.link = open();
        loop.execute(() -> supervise(link));
        loop.scheduleWithFixedDelay(this::tick, TICK_MS, TICK_MS, TimeUnit.MILLISECONDS);
    }

    /**
     * Connects; later connections come by themselves. Throws {@link TurnClientException.BrokerUnavailable}.
     *
     * @param url {@code amqp://user:password@host:5672/vhost}, or {@code amqps://…}; {@code %2f} is the virtual host {@code /}
     */
    public static TurnClient connect(String url) {
        return connect(url, new Options());
    }

    public static TurnClient connect(String url, Options options) {
        return new TurnClient(url, options);
    }

    /** Sends a turn and waits for its answer. Throws a {@link TurnFailed} unless the turn completed. */
    public Answer run(String prompt, String workspace) {
        return run(new Request(prompt, workspace));
    }

    /** As {@link #run(String, String)}; the turn is cancelled if the thread is interrupted. */
    public Answer run(Request request) {
        CompletableFuture<Answer> answer = runAsync(request);
        try {
            return await(answer);
        } finally {
            answer.cancel(false);
        }
    }

    /** Sends a turn. The future fails with a {@link TurnFailed} unless the turn completed; cancelling it cancels the turn. */
    public CompletableFuture<Answer> runAsync(Request request) {
        return start(new Turn(this, request, 0)).answerAsync();
    }

    /** Sends a turn and reads its events. */
    public Turn stream(String prompt, String workspace) {
        return stream(new Request(prompt, workspace));
    }

    public Turn stream(Request request) {
        return start(new Turn(this, request, options.bufferLimit));
    }

    /** Sends a turn without reading its events. Returns its id once the broker has accepted it. */
    public String submit(Request request) {
        byte[] body = request.encode();
        await(untilDone(link -> link.publish(names.requests(), REQUEST_KEY, request.turnId(), body)));
        return request.turnId();
    }

    /**
     * Cancels a turn that anyone sent. Fails with {@link TurnClientException.NoWorker} if no worker hears it. A worker that is not
     * connected at the moment misses it; {@link Turn#cancel} repeats it until the end.
     *
     * @param workspace null for all of them
     */
    public CompletableFuture<Void> cancel(String turnId, String workspace) {
        return untilDone(link -> publishCancel(link, turnId, workspace));
    }

    /** Reads a turn from the event log, from its beginning, and follows it to its end, on a connection of its own. */
    public Tail tail(String turnId) {
        return tail(turnId, new Tail.Options());
    }

    public Tail tail(String turnId, Tail.Options tailOptions) {
        return new Tail(url, names.log(), turnId, tailOptions, options.configure, options.onStatus);
    }

    /** Asks the workers where a turn is, for 15 seconds. Throws {@link TurnClientException.NoAnswer}. */
    public Description describe(String turnId, String workspace) {
        return describe(turnId, workspace, ANSWER_TIME);
    }

    /** Throws {@link TurnClientException.NoAnswer}: no worker is connected, or they are older than the question. */
    public Description describe(String turnId, String workspace, Duration timeout) {
        JsonObject control = new JsonObject();
        control.addProperty("action", "describe");
        control.addProperty("turn_id", turnId);
        control.addProperty("workspace", workspace);
        String correlationId = UUID.randomUUID().toString();
        byte[] body = bytes(control);
        Question question =
                new Question(correlationId, names.control(), "", body, QUESTION_PAUSE_MS, QUESTION_PAUSE_MS);
        try {
            return Replies.descriptionOf(await(ask(question).orTimeout(timeout.toMillis(), TimeUnit.MILLISECONDS)));
        } catch (CompletionException error) {
            if (!(error.getCause() instanceof TimeoutException)) throw error;
            String message = "no worker has answered within " + timeout.toSeconds()
                    + " s: none is connected, or the active sequencer is of an older version";
            throw new TurnClientException.NoAnswer(message, error);
        }
    }

    /**
     * As {@link #runAsync}, without a queue and bindings: only the end of the turn comes, as a reply. Workers older than replies
     * send no reply, so give it a timeout ({@code orTimeout}).
     */
    public CompletableFuture<Answer> runByReply(Request request) {
        String id = request.turnId();
        Question question =
                new Question(id, names.requests(), REQUEST_KEY, request.encode(), REPLY_PAUSE_MS, ASK_AGAIN_AT_MOST_MS);
        if (questions.containsKey(id)) throw beingRead(id);
        CompletableFuture<Answer> answer = ask(question).thenApply(reply -> Replies.answerOf(id, reply));
        answer.whenComplete((done, error) -> {
            boolean isAbandoned = error instanceof CancellationException || error instanceof TimeoutException;
            if (!isAbandoned) return;
            question.reply.cancel(false);
            if (!request.isKeptRunning()) cancel(id, request.workspace());
        });
        return answer;
    }

    /** Leaves. Turns that have not ended go on, and {@link TurnClientException.ClientClosed} is thrown to their readers. */
    @Override
    public void close() {
        if (isClosed) return;
        waitAtMost(CompletableFuture.allOf(leaving.toArray(new CompletableFuture<?>[0])));
        isClosed = true;
        TurnClientException.ClientClosed closed = new TurnClientException.ClientClosed();
        turns.values().forEach(turn -> turn.fail(closed));
        turns.clear();
        questions.values().forEach(question -> question.reply.completeExceptionally(closed));
        waitAtMost(CompletableFuture.runAsync(this::disconnect, loop));
        loop.shutdownNow();
    }

    private void disconnect() {
        waitingForLink.forEach(Runnable::run);
        if (link == null) return;
        stopReading.run();
        try {
            if (wantsToRead && options.queue == null) link.delete(queue);
        } catch (TurnClientException error) {
            // It goes by itself when its time is up.
        }
        link.close();
    }

    private static void waitAtMost(CompletableFuture<?> done) {
        try {
            done.get(LEAVE_AFTER_MS, TimeUnit.MILLISECONDS);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        } catch (ExecutionException | TimeoutException | CancellationException error) {
            // Leaving is what counts.
        }
    }

    // --- turns

    private Turn start(Turn turn) {
        turns.compute(turn.turnId(), (id, other) -> {
            if (other != null && other.isRead()) throw beingRead(id);
            return turn;
        });
        if (isClosed) {
            turns.remove(turn.turnId(), turn);
            throw new TurnClientException.ClientClosed();
        }
        execute(() -> {
            if (link == null) {
                wantsToRead = true; // all turns are sent on the next link
                return;
            }
            if (turn.request().mayBeKnown()) askAgainLater(turn);
            try {
                readOn(link);
                send(link, turn);
            } catch (Link.Lost lost) {
                // All turns are sent on the next one.
            } catch (TurnClientException refusal) {
                fail(turn, refusal);
            }
        });
        return turn;
    }

    private static IllegalStateException beingRead(String turnId) {
        return new IllegalStateException("turn " + turnId + " is being read already");
    }

    /** Binds before it publishes: events that no queue is bound for are gone. */
    private void send(Link link, Turn turn) {
        turn.sending.on = link;
        link.bind(queue, names.events(), turn.turnId());
        publish(link, turn);
    }

    private void publish(Link link, Turn turn) {
        link.publish(names.requests(), REQUEST_KEY, turn.turnId(), turn.body()).whenComplete((done, error) -> {
            if (error == null) turn.accepted().complete(null);
            else if (!(error instanceof Link.Lost)) execute(() -> fail(turn, error));
        });
    }

    private CompletableFuture<Void> publishCancel(Link link, String turnId, String workspace) {
        JsonObject control = new JsonObject();
        control.addProperty("action", "cancel");
        control.addProperty("turn_id", turnId);
        // A path means something to a worker only.
        if (workspace != null && !workspace.startsWith("/")) control.addProperty("workspace", workspace);
        return link.publish(names.control(), "", null, bytes(control));
    }

    void cancel(Turn turn) {
        execute(() -> cancelNow(turn));
    }

    private CompletableFuture<?> cancelNow(Turn turn) {
        Turn.Sending sending = turn.sending;
        sending.isCancelling = true;
        sending.cancelAt = now() + CANCEL_PAUSE_MS;
        // If it is not sent yet, the cancel follows it.
        if (turn.isEnded() || sending.on == null) return CompletableFuture.completedFuture(null);
        return publishCancel(sending.on, turn.turnId(), turn.request().workspace()).whenComplete((done, error) -> {
            if (error instanceof TurnClientException.NoWorker) {
                report("no worker is connected, so the cancel is repeated until one is");
                execute(() -> sending.cancelAt = now() + UNHEARD_PAUSE_MS);
            } else if (error instanceof Link.Lost) {
                execute(() -> sending.cancelAt = 0);
            } else if (error != null) {
                report(error.getMessage());
            }
        });
    }

    /** Cancels a turn that has no reader any more, and goes on with it in the background until it has ended. */
    void leave(Turn turn) {
        if (turn.request().isKeptRunning() || isClosed) {
            execute(() -> forget(turn));
            return;
        }
        CompletableFuture<Void> cancelled = new CompletableFuture<>();
        leaving.add(cancelled);
        cancelled.whenComplete((done, error) -> leaving.remove(cancelled));
        execute(() -> cancelNow(turn).whenComplete((done, error) -> cancelled.complete(null)));
    }

    private void forget(Turn turn) {
        Link on = turn.sending.on;
        if (!turns.remove(turn.turnId(), turn) || on == null || on.isLost()) return;
        try {
            on.unbind(queue, names.events(), turn.turnId());
        } catch (TurnClientException error) {
            // The queue is gone, or the link.
        }
    }

    private void fail(Turn turn, Throwable error) {
        turn.fail(error);
        forget(turn);
    }

    private void onDelivery(Delivery delivery, Runnable ack) {
        Event event = Event.parse(delivery.getBody());
        Turn turn = event == null ? null : turns.get(event.turnId());
        if (turn != null && turn.deliver(event)) {
            turn.accepted().complete(null);
            turn.sending.asksAgain = false;
            if (turn.isEnded()) execute(() -> forget(turn));
        }
        ack.run();
    }

    // --- questions

    private CompletableFuture<Delivery> ask(Question question) {
        questions.put(question.correlationId, question);
        question.reply.whenComplete((done, error) -> questions.remove(question.correlationId, question));
        if (isClosed) question.reply.completeExceptionally(new TurnClientException.ClientClosed());
        execute(question::sendIfDue);
        return question.reply;
    }

    private void onReply(Delivery reply) {
        String correlationId = reply.getProperties().getCorrelationId();
        // The first one counts. It is removed first, since the same turn may be asked for again at once.
        Question question = correlationId == null ? null : questions.remove(correlationId);
        if (question != null) question.reply.complete(reply);
    }

    // --- connections

    private Link open() {
        return Link.open(url, "codex-turn-client", options.configure, this::onReply);
    }

    /** Over as many connections as that takes. */
    private CompletableFuture<Void> untilDone(Function<Link, CompletableFuture<Void>> work) {
        CompletableFuture<Void> done = new CompletableFuture<>();
        if (isClosed) done.completeExceptionally(new TurnClientException.ClientClosed());
        else execute(() -> tryOnce(work, done));
        return done;
    }

    private void tryOnce(Function<Link, CompletableFuture<Void>> work, CompletableFuture<Void> done) {
        if (isClosed) {
            done.completeExceptionally(new TurnClientException.ClientClosed());
        } else if (link == null || link.isLost()) {
            waitingForLink.add(() -> tryOnce(work, done));
        } else {
            work.apply(link).whenComplete((result, error) -> {
                if (error instanceof Link.Lost) execute(() -> tryOnce(work, done));
                else if (error != null) done.completeExceptionally(error);
                else done.complete(null);
            });
        }
    }

    /** Has the queue read on this link. */
    private void readOn(Link link) {
        if (readsOn == link) return;
        wantsToRead = true;
        link.declare(queue, options.queueLifetime.toMillis());
        consume(link);
    }

    private void consume(Link link) {
        stopReading = link.consume(queue, options.prefetch, Map.of(), this::onDelivery);
        readsOn = link;
    }

    private void supervise(Link current) {
        current.lost.thenAccept(reason -> execute(() -> {
            if (isClosed || link != current) return;
            link = null;
            report("lost the broker: " + reason);
            current.close();
            reconnectAfter(RECONNECT_PAUSE_MS, 0);
        }));
    }

    private void reconnectAfter(long pauseMs, int refusals) {
        long random = ThreadLocalRandom.current().nextLong(pauseMs / 2, pauseMs);
        loop.schedule(() -> reconnect(Math.min(2 * pauseMs, RECONNECT_PAUSE_AT_MOST_MS), refusals), random, TimeUnit.MILLISECONDS);
    }

    private void reconnect(long nextPauseMs, int refusals) {
        if (isClosed) return;
        Link next = null;
        try {
            next = open();
            resume(next);
        } catch (TurnClientException error) {
            if (next != null) next.close();
            if (error instanceof TurnClientException.BrokerRefused) {
                queue = newQueue(); // it may be on a node that is down
                refusals++;
                if (refusals % REFUSALS_AT_MOST == 0) List.copyOf(turns.values()).forEach(turn -> fail(turn, error));
            }
            reconnectAfter(nextPauseMs, refusals);
            return;
        }
        if (isClosed) {
            next.close();
            return;
        }
        link = next;
        supervise(next);
        report("connected again");
        List<Runnable> waiting = List.copyOf(waitingForLink);
        waitingForLink.clear();
        waiting.forEach(Runnable::run);
        tick();
    }

    /** Sends all turns again before it reads on: their ends may have been missed, and come once more then. */
    private void resume(Link next) {
        if (!wantsToRead) return;
        next.declare(queue, options.queueLifetime.toMillis());
        for (Turn turn : turns.values()) {
            try {
                send(next, turn);
            } catch (TurnClientException.BrokerRefused refusal) {
                fail(turn, refusal);
                continue;
            }
            askAgainLater(turn);
            if (turn.sending.isCancelling) turn.sending.cancelAt = 0;
        }
        consume(next);
    }

    /** Unless an event comes before that. */
    private static void askAgainLater(Turn turn) {
        turn.sending.asksAgain = true;
        turn.sending.askPause = ASK_AGAIN_MS;
        turn.sending.askAgainAt = now() + ASK_AGAIN_MS;
    }

    /**
     * Repeats cancels, questions, and requests that were not the first of their turn and got no event: they are dropped as
     * duplicates while the workers have not yet noted the turn's end, which may have been published already.
     */
    private void tick() {
        if (link == null) return;
        for (Turn turn : turns.values()) {
            Turn.Sending sending = turn.sending;
            if (sending.on != link) continue;
            if (sending.isCancelling && now() >= sending.cancelAt) cancelNow(turn);
            if (sending.asksAgain && now() >= sending.askAgainAt) {
                sending.askPause = Math.min(2 * sending.askPause, ASK_AGAIN_AT_MOST_MS);
                sending.askAgainAt = now() + sending.askPause;
                publish(link, turn);
            }
        }
        questions.values().forEach(Question::sendIfDue);
    }

    private void execute(Runnable work) {
        try {
            loop.execute(work);
        } catch (RejectedExecutionException error) {
            // The client is closed.
        }
    }

    /** A listener that throws must not stop the client. */
    private void report(String status) {
        try {
            options.onStatus.accept(status);
        } catch (RuntimeException error) {
            System.getLogger("codexturns").log(System.Logger.Level.WARNING, "onStatus failed", error);
        }
    }

    private String newQueue() {
        if (options.queue != null) return options.queue;
        String user = URI.create(url).getRawUserInfo();
        user = user == null || user.isEmpty() ? "guest" : URLDecoder.decode(user.split(":")[0], StandardCharsets.UTF_8);
        return user + "." + UUID.randomUUID();
    }

    private static byte[] bytes(JsonObject object) {
        return Json.GSON.toJson(object).getBytes(StandardCharsets.UTF_8);
    }

    private static long now() {
        return System.nanoTime() / 1_000_000;
    }

    /** Throws what the future failed with, as it is, or {@code CancellationException} if the thread is interrupted. */
    static <T> T await(CompletableFuture<T> future) {
        try {
            return future.get();
        } catch (ExecutionException error) {
            if (error.getCause() instanceof RuntimeException cause) throw cause;
            throw new CompletionException(error.getCause());
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new CancellationException("interrupted");
        }
    }
}
