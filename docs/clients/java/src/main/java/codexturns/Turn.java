package codexturns;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeoutException;

/**
 * A turn in progress: its events, each once, in order. Leaving it before its end with {@link #close} cancels it.
 *
 * <p>Iterating blocks until the next event. It throws what {@link #answer} throws if no more events can come, and
 * {@code CancellationException} when the thread is interrupted.
 */
public final class Turn implements Iterable<Event>, AutoCloseable {
    private final TurnClient client;
    private final Request request;
    private final byte[] body;
    private final TurnReader reader;
    private final int bufferLimit;
    private final CompletableFuture<Void> accepted = new CompletableFuture<>();
    private final CompletableFuture<Answer> answer = new CompletableFuture<>();
    private final Deque<Event> inbox = new ArrayDeque<>();
    private int missed;
    private boolean isEnded;
    private boolean isLeft;

    /** What the client keeps of it, on its own thread. */
    final Sending sending = new Sending();

    /** When to send it, or its cancel, again. */
    static final class Sending {
        Link on;
        boolean isCancelling;
        long cancelAt;
        volatile boolean asksAgain;
        long askAgainAt;
        long askPause;
    }

    Turn(TurnClient client, Request request, int bufferLimit) {
        this.client = client;
        this.request = request;
        this.body = request.encode();
        this.reader = new TurnReader(request.turnId(), request.workspace());
        this.bufferLimit = bufferLimit;
        answer.whenComplete((done, error) -> {
            if (answer.isCancelled() || error instanceof TimeoutException) close();
        });
    }

    public String turnId() {
        return request.turnId();
    }

    /** Completes when the broker has accepted the turn. */
    public CompletableFuture<Void> accepted() {
        return accepted;
    }

    /**
     * Completes with the turn: exceptionally with a {@link TurnFailed} unless it completed. Cancelling the future cancels the
     * turn, and so does {@code orTimeout}. What depends on it runs on a thread of the client, so it must not block: use the {@code …Async} methods for that.
     */
    public CompletableFuture<Answer> answerAsync() {
        return answer;
    }

    /** Waits for the end. Throws a {@link TurnFailed} unless the turn completed. */
    public Answer answer() {
        return TurnClient.await(answer);
    }

    /** Asks the workers to cancel the turn, again and again until it has ended. Read on: its end still comes. */
    public void cancel() {
        client.cancel(this);
    }

    /** Leaves it: one that has not ended is cancelled, unless its request says {@code keepRunning}. */
    @Override
    public void close() {
        synchronized (this) {
            if (isEnded || isLeft) return;
            isLeft = true;
            inbox.clear();
            notifyAll();
        }
        answer.completeExceptionally(new CancellationException("turn " + turnId() + " was left before its end"));
        client.leave(this);
    }

    /**
     * How many events of the turn are known to have been lost, or were dropped because they were read too slowly. The answer is
     * complete in any case.
     */
    public synchronized int missed() {
        return missed;
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
                Event event = take();
                if (event == null) throw new NoSuchElementException();
                return event;
            }
        };
    }

    private boolean waitForEvent() {
        synchronized (this) {
            try {
                while (inbox.isEmpty() && !isEnded && !isLeft) wait();
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
                throw new CancellationException("interrupted while turn " + turnId() + " was read");
            }
            if (!inbox.isEmpty()) return true;
            if (reader.end() != null) return false;
        }
        TurnClient.await(answer);
        return false;
    }

    private Event take() {
        if (!waitForEvent()) return null;
        synchronized (this) {
            return inbox.poll();
        }
    }

    Request request() {
        return request;
    }

    byte[] body() {
        return body;
    }

    synchronized boolean isEnded() {
        return isEnded;
    }

    synchronized boolean isRead() {
        return !isEnded && !isLeft;
    }

    /** Returns whether the event is the turn's, and new. */
    boolean deliver(Event event) {
        synchronized (this) {
            if (isEnded) return false;
            TurnReader.Taken taken = reader.take(event);
            if (taken == null) return false;
            missed += taken.missed();
            if (taken.restarted()) keep(new Event.Restarted(event.envelope()));
            keep(event);
            isEnded = reader.end() != null;
            notifyAll();
            if (!isEnded) return true;
        }
        try {
            answer.complete(reader.answer());
        } catch (TurnFailed failed) {
            answer.completeExceptionally(failed);
        }
        return true;
    }

    /** A slow reader loses pieces, never a start, a restart, the error or the end, and delays no other reader. */
    private void keep(Event event) {
        if (bufferLimit == 0 || isLeft) return;
        boolean isAlwaysKept = event instanceof Event.MessageStart
                || event instanceof Event.Restarted
                || event instanceof Event.Error
                || event instanceof Event.MessageEnd;
        if (inbox.size() < bufferLimit || isAlwaysKept) inbox.add(event);
        else missed++;
    }

    void fail(Throwable error) {
        synchronized (this) {
            if (isEnded) return;
            isEnded = true;
        }
        accepted.completeExceptionally(error);
        answer.completeExceptionally(error);
        synchronized (this) {
            notifyAll();
        }
    }
}
