package codexturns;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;

/**
 * Uses the library as services do, for tests/it/clients, which have a worker answer and look at what is printed.
 *
 * <pre>AMQP_URL=amqp://… java -cp … codexturns.Probe scripted     with a worker that repeats each prompt
 * AMQP_URL=amqp://… java -cp … codexturns.Probe pool         with a real one
 * AMQP_URL=amqp://… java -cp … codexturns.Probe restart      the same turn in each process
 * AMQP_URL=amqp://… java -cp … codexturns.Probe asking       with a real one, which it asks where its turns are</pre>
 */
public final class Probe {
    private static final String URL = System.getenv("AMQP_URL");

    private Probe() {}

    private static List<String> typesOf(Iterable<Event> turn) {
        List<String> types = new ArrayList<>();
        for (Event event : turn) types.add(event.envelope().raw().get("type").getAsString());
        return types;
    }

    private static void scripted() {
        try (TurnClient client = TurnClient.connect(URL)) {
            List<CompletableFuture<Answer>> all = new ArrayList<>();
            for (int n = 0; n < 500; n++) all.add(client.runAsync(new Request("turn " + n, "w" + n)));
            int many = 0;
            for (int n = 0; n < 500; n++) {
                if (all.get(n).join().text().equals("turn " + n)) many++;
            }
            System.out.println("many " + many);
            try {
                client.run("fail", "a");
            } catch (TurnFailed error) {
                System.out.println("failed " + error.code() + " " + error.reason() + " " + error.retryable());
            }
        }
        try (TurnClient small = TurnClient.connect(URL, new TurnClient.Options().bufferLimit(10))) {
            Turn slow = small.stream("flood 50", "a");
            Answer answer = slow.answer();
            Answer other = small.run("other", "b");
            List<String> kept = typesOf(slow);
            String last = kept.get(kept.size() - 1);
            System.out.println("slow " + answer.text().length() + " " + kept.size() + " " + last + " " + slow.missed() + " " + other.text());
        }
    }

    private static void pool() {
        try (TurnClient client = TurnClient.connect(URL)) {
            try {
                client.run("say no", "../a");
            } catch (TurnFailed.Rejected error) {
                System.out.println("rejected " + error.code() + " " + error.retryable());
            }
            Turn turn = client.stream("t1\nsay hi", "a");
            System.out.println("stream " + String.join(" ", typesOf(turn)));
            Answer again = client.run(new Request("t1\nsay hi", "a").turnId(turn.turnId()));
            System.out.println("again " + again.text() + " " + again.turnId().equals(turn.turnId()));
            try (Turn left = client.stream("t2\nsay left\nwait never", "a")) {
                for (Event event : left) {
                    if (event instanceof Event.TextDelta) break;
                }
                System.out.println("left " + left.turnId());
            }
            CompletableFuture<Answer> waiting = client.runAsync(new Request("t3\nsay no\nwait never", "b").turnId("abandoned"));
            // Another turn, of another workspace, has ended: then the one before has been sent.
            client.run("t4\nsay yes", "c");
            waiting.cancel(false);
            try {
                waiting.join();
            } catch (CancellationException error) {
                System.out.println("abandoned CancellationException");
            }
        }
    }

    private static void restart() {
        try (TurnClient client = TurnClient.connect(URL, new TurnClient.Options().queue("guest.restart"))) {
            Turn turn = client.stream(new Request("t1\nsay before\nwait go\nsay after", "a").turnId("restart"));
            for (Event event : turn) {
                if (event instanceof Event.TextDelta piece) System.out.println(piece.text());
            }
            System.out.println("answer " + turn.answer().text());
        }
    }

    private static void asking() {
        try (TurnClient client = TurnClient.connect(URL)) {
            Answer answer = client.runByReply(new Request("t1\nsay hi", "a")).join();
            Answer again = client.runByReply(new Request("t1\nsay hi", "a").turnId(answer.turnId())).join();
            System.out.println("reply " + answer.text() + " " + again.text());
            for (Request request : List.of(new Request("say no", "../a"), new Request("t2\nfail no luck", "a"))) {
                try {
                    TurnClient.await(client.runByReply(request));
                } catch (TurnFailed error) {
                    String kind = error instanceof TurnFailed.Rejected ? "TurnRejected" : "TurnFailed";
                    System.out.println(kind + " " + error.code() + " " + error.reason() + " " + error.retryable());
                }
            }
            try (Turn turn = client.stream("t3\nsay on\nwait never", "a")) {
                for (Event event : turn) {
                    if (event instanceof Event.TextDelta) break;
                }
                String last = client.submit(new Request("t4\nsay last", "a"));
                System.out.println(shown(client.describe(turn.turnId(), "a")));
                System.out.println(shown(client.describe(last, "a")));
                System.out.println(shown(client.describe(turn.turnId(), "b")));
            }
            System.out.println(shown(client.describe(answer.turnId(), "a")));
            try {
                // That it is unknown takes longer.
                client.describe("never-sent", "a", Duration.ofMillis(500));
            } catch (TurnClientException.NoAnswer error) {
                System.out.println("no answer");
            }
        }
    }

    private static String shown(Description description) {
        if (description instanceof Description.Running running) return "running " + running.attempt();
        if (description instanceof Description.Waiting waiting) return "waiting " + waiting.place();
        if (description instanceof Description.Ended ended) return "ended " + ended.end().text();
        return "unknown";
    }

    public static void main(String[] arguments) {
        switch (arguments[0]) {
            case "scripted" -> scripted();
            case "pool" -> pool();
            case "restart" -> restart();
            case "asking" -> asking();
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        System.exit(0);
    }
}
