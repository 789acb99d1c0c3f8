import codexturns.Event;
import codexturns.Request;
import codexturns.Tail;
import codexturns.Turn;
import codexturns.TurnClient;
import codexturns.TurnClientException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/**
 * Sends prompts to a workspace, each a turn of the same conversation, and prints the answers as they come.
 *
 * <pre>AMQP_URL=amqp://… java -cp … Producer WORKSPACE PROMPT [PROMPT…]
 * AMQP_URL=amqp://… java -cp … Producer --tail TURN_ID [WORKSPACE]</pre>
 *
 * The second form comes late: it prints a turn from the event log, if the operator keeps one, and follows it to its end.
 *
 * <p>Ctrl-C cancels the turn, and leaves after 30 seconds if its end does not come. Exit status: 0 if every turn completed, 124 if
 * one timed out, 130 if it was cancelled, 2 for wrong arguments, 1 for everything else.
 */
public class Producer {
    private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    private static final PrintStream ERR = new PrintStream(System.err, true, StandardCharsets.UTF_8);
    private static final long LEAVE_AFTER_S = 30;
    private static final Map<String, Integer> EXIT_STATUS = Map.of("end_turn", 0, "timeout", 124, "cancelled", 130);

    private static volatile Turn current;

    private static void say(String text) {
        ERR.println(text);
    }

    /** Prints what the agent says, each message on lines of its own. */
    private static final class Printer {
        private String itemId = "";
        private final StringBuilder text = new StringBuilder(); // of the message that came last
        private boolean lineIsOpen;

        void print(Event event) {
            if (event instanceof Event.Restarted) {
                beginMessage("");
                say("attempt " + event.attempt() + ": it starts again, forget the text so far");
            } else if (event instanceof Event.TextDelta piece) {
                if (!piece.itemId().equals(itemId)) beginMessage(piece.itemId());
                show(piece.text());
            } else if (event instanceof Event.Error failure) {
                endLine();
                say(failure.error().code() + ": " + failure.error().message());
            } else if (event instanceof Event.MessageEnd end) {
                if (end.text() != null && !end.text().contentEquals(text)) {
                    beginMessage(""); // pieces of it were missed
                    show(end.text());
                }
                endLine();
                say(end.stopReason() + ", tokens: " + end.envelope().raw().get("usage"));
            }
        }

        private void beginMessage(String itsItem) {
            endLine();
            itemId = itsItem;
            text.setLength(0);
        }

        private void show(String piece) {
            OUT.print(piece);
            OUT.flush();
            text.append(piece);
            lineIsOpen = true;
        }

        private void endLine() {
            if (lineIsOpen) OUT.println();
            OUT.flush();
            lineIsOpen = false;
        }
    }

    /** Returns the stop reason. */
    private static String show(Iterable<Event> turn) {
        Printer printer = new Printer();
        String stopReason = "";
        for (Event event : turn) {
            printer.print(event);
            if (event instanceof Event.MessageEnd end) stopReason = end.stopReason();
        }
        return stopReason;
    }

    private static String run(TurnClient client, String workspace, List<String> prompts) {
        String stopReason = "";
        for (String prompt : prompts) {
            Request request = new Request(prompt, workspace);
            say("turn " + request.turnId());
            try (Turn turn = client.stream(request)) {
                current = turn;
                stopReason = show(turn);
                current = null;
            }
            if (!stopReason.equals("end_turn")) break;
        }
        return stopReason;
    }

    private static String tail(TurnClient client, String[] arguments) {
        Tail.Options options = new Tail.Options();
        if (arguments.length > 2) options.workspace(arguments[2]);
        try (Tail tail = client.tail(arguments[1], options)) {
            return show(tail);
        }
    }

    private static int program(String[] arguments) {
        if (arguments.length < 2) {
            say("usage: Producer WORKSPACE PROMPT [PROMPT…]\n       Producer --tail TURN_ID [WORKSPACE]");
            return 2;
        }
        TurnClient.Options options = new TurnClient.Options().onStatus(Producer::say);
        try (TurnClient client = TurnClient.connect(System.getenv("AMQP_URL"), options)) {
            String stopReason = arguments[0].equals("--tail")
                    ? tail(client, arguments)
                    : run(client, arguments[0], Arrays.asList(arguments).subList(1, arguments.length));
            return EXIT_STATUS.getOrDefault(stopReason, 1);
        } catch (TurnClientException error) {
            say("can't go on: " + error.getMessage());
            return 1;
        }
    }

    public static void main(String[] arguments) {
        CompletableFuture<Integer> status = new CompletableFuture<>();
        // Runs on Ctrl-C, and at the end.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            Turn interrupted = current;
            if (interrupted != null) interrupted.cancel();
            long patience = interrupted == null ? 0 : LEAVE_AFTER_S;
            Runtime.getRuntime().halt(status.completeOnTimeout(130, patience, TimeUnit.SECONDS).join());
        }));
        status.complete(program(arguments));
        System.exit(status.join());
    }
}
