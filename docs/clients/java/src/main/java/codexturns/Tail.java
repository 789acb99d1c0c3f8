package codexturns;

import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Date;
import java.util.Deque;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CancellationException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/**
 * A turn in the event log: its events, each once, in order. Iterating connects, blocks until the next event, and closes the
 * connection at the end of the turn; close it to leave before that. For one thread at a time.
 */
public final class Tail implements Iterable<Event>, AutoCloseable {
    private static final int PREFETCH = 200;
    /** A chunk of a stream, which is delivered whole, has no more messages. */
    private static final int MAX_CHUNK = 65_535;
    /** After the newest message: what is in one chunk with it comes at once. */
    private static final long QUIET_MS = 1_000;
    /** No message comes: the log is empty, or older than what is asked for. */
    private static final long SILENT_MS = 10_000;

    private static final long RECONNECT_PAUSE_MS = 1_000;
    private static final long POLL_MS = 200;

    private final String url;
    private final String queue;
    private final Options options;
    private final Consumer<ConnectionFactory> configure;
    private final Consumer<String> onStatus;
    private final TurnReader reader;
    private final Deque<Event> inbox = new ArrayDeque<>();
    private Session session; // null while there is no connection
    private long next = -1; // the first message that was not read
    private boolean isFound;
    private boolean isCaughtUp;
    private boolean isLost;
    private volatile boolean isClosed;

    /** Options of {@link TurnClient#tail}, all of which have defaults. */
    public static final class Options {
        private String workspace;
        private Duration since;
        private boolean isWaiting;

        /** The turn's workspace; by default that of the first event. */
        public Options workspace(String workspace) {
            this.workspace = workspace;
            return this;
        }

        /** Read only what is younger, which is faster. */
        public Options since(Duration age) {
            this.since = age;
            return this;
        }

        /** Wait for a turn that is not in the log yet, in place of throwing {@link TurnClientException.TurnNotInLog}. */
        public Options waitForIt() {
            this.isWaiting = true;
            return this;
        }
    }

    private record Delivered(Delivery delivery, Runnable ack) {
        long offset() {
            Object offset = delivery.getProperties().getHeaders().get("x-stream-offset");
            return offset instanceof Long number ? number : 0;
        }
    }

    /** What is read over one connection. */
    private record Session(Link link, BlockingQueue<Delivered> deliveries, long newest) {}

    Tail(
            String url,
            String queue,
            String turnId,
            Options options,
            Consumer<ConnectionFactory> configure,
            Consumer<String> onStatus) {
        this.url = url;
        this.queue = queue;
        this.options = options;
        this.configure = configure;
        this.onStatus = onStatus;
        this.reader = new TurnReader(turnId, options.workspace);
    }

    public String turnId() {
        return reader.turnId();
    }

    /** Drops the events that were not read yet. Throws a {@link TurnFailed} unless the turn completed. */
    public Answer answer() {
        for (Event event : this) inbox.clear();
        return reader.answer();
    }

    /** Leaves. */
    @Override
    public void close() {
        isClosed = true;
        disconnect();
    }

    @Override
    public Iterator<Event> iterator() {
        return new Iterator<>() {
            @Override
            public boolean hasNext() {
                return waitForEvent();
            }

            @Override
            public Event next() {
                if (!waitForEvent()) throw new NoSuchElementException();
                return inbox.poll();
            }
        };
    }

    private boolean waitForEvent() {
        try {
            while (inbox.isEmpty() && reader.end() == null) {
                if (isClosed) return false;
                readOver();
            }
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            disconnect();
            throw new CancellationException("interrupted while turn " + turnId() + " was read");
        } catch (TurnClientException error) {
            disconnect();
            throw error;
        }
        if (reader.end() != null) disconnect();
        return !inbox.isEmpty();
    }

    /** Reads until events come, over another connection if one is lost. */
    private void readOver() throws InterruptedException {
        try {
            if (session == null) session = connect();
            read();
            isLost = false;
        } catch (Link.Lost | TurnClientException.BrokerUnavailable error) {
            disconnect();
            if (next < 0) throw new TurnClientException.BrokerUnavailable(error.getMessage(), error);
            if (!isLost) onStatus.accept("lost the broker: " + error.getMessage());
            isLost = true;
            Thread.sleep(RECONNECT_PAUSE_MS);
        }
    }

    /** Without rejecting what was delivered, and ignoring errors: see "The event log" in docs/EVENTS.md. */
    private void disconnect() {
        Session current = session;
        session = null;
        if (current != null) current.link.close();
    }

    private Session connect() throws InterruptedException {
        Link link = Link.open(url, "codex-turn-client tail", configure, null);
        try {
            Delivered newest = newest(link);
            List<String> filter = new ArrayList<>(List.of(turnId()));
            if (newest != null) {
                Object value = newest.delivery.getProperties().getHeaders().get("x-stream-filter-value");
                if (value != null) filter.add(value.toString());
            }
            return new Session(link, consume(link, filter), newest == null ? -1 : newest.offset());
        } catch (TurnClientException error) {
            link.close();
            throw error;
        }
    }

    private void read() throws InterruptedException {
        long patience = session.newest < 0 ? QUIET_MS : SILENT_MS;
        while (inbox.isEmpty() && reader.end() == null && !isClosed) {
            Delivered delivered = poll(session, isCaughtUp ? POLL_MS : patience);
            if (delivered == null) {
                catchUp();
                continue;
            }
            long at = delivered.offset();
            patience = patienceAfter(at, session.newest);
            delivered.ack.run();
            if (at < next) continue; // a chunk is delivered whole
            next = at + 1;
            take(Event.parse(delivered.delivery.getBody()));
        }
    }

    private void take(Event event) {
        TurnReader.Taken taken = event == null ? null : reader.take(event);
        if (taken == null) return;
        isFound = true;
        if (taken.restarted()) inbox.add(new Event.Restarted(event.envelope()));
        inbox.add(event);
    }

    private void catchUp() {
        isCaughtUp = true;
        if (isFound || options.isWaiting) return;
        throw new TurnClientException.TurnNotInLog("the event log has nothing of turn " + turnId()
                + ": it has not started, is older than the log, or never was");
    }

    private static Delivered poll(Session session, long patienceMs) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(patienceMs);
        while (true) {
            Delivered delivered = session.deliveries.poll(POLL_MS, TimeUnit.MILLISECONDS);
            if (delivered != null) return delivered;
            if (session.link.isLost()) throw new Link.Lost(session.link.lost.join());
            if (System.nanoTime() >= end) return null;
        }
    }

    /** A filtered stream is silent without a match. Once its newest message has come, everything has. */
    private Delivered newest(Link link) throws InterruptedException {
        BlockingQueue<Delivered> deliveries = new LinkedBlockingQueue<>();
        Runnable stop = consume(link, deliveries, Map.of("x-stream-offset", "last"));
        Delivered newest = poll(new Session(link, deliveries, -1), SILENT_MS);
        stop.run();
        return newest;
    }

    private BlockingQueue<Delivered> consume(Link link, List<String> filter) {
        Object from = "first";
        if (next >= 0) from = next;
        else if (options.since != null) from = Date.from(Instant.now().minus(options.since));
        BlockingQueue<Delivered> deliveries = new LinkedBlockingQueue<>();
        Map<String, Object> arguments = new HashMap<>(Map.of("x-stream-offset", from));
        try {
            // Those without a value are of workers that set no value yet.
            Map<String, Object> filtered = new HashMap<>(arguments);
            filtered.put("x-stream-filter", filter);
            filtered.put("x-stream-match-unfiltered", true);
            consume(link, deliveries, filtered);
        } catch (TurnClientException.NoEventLog error) {
            throw error;
        } catch (TurnClientException.BrokerRefused error) {
            // A broker that could filter, with filters not enabled.
            consume(link, deliveries, arguments);
        }
        return deliveries;
    }

    private Runnable consume(Link link, BlockingQueue<Delivered> deliveries, Map<String, Object> arguments) {
        try {
            return link.consume(queue, PREFETCH, arguments, (delivery, ack) -> deliveries.add(new Delivered(delivery, ack)));
        } catch (TurnClientException.NotFound error) {
            throw new TurnClientException.NoEventLog(error);
        }
    }

    /** How long to wait for another message before the log counts as read, in milliseconds. */
    private static long patienceAfter(long offset, long newest) {
        if (newest < 0 || offset < newest) return SILENT_MS;
        return offset > newest + MAX_CHUNK ? 0 : QUIET_MS;
    }
}
