package codexturns;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads the deliveries of one turn in the order in which they come, with duplicates and forgeries among them. Knows no broker.
 * Not for several threads at a time.
 */
public final class TurnReader {
    private final String turnId;
    private String workspace;
    private boolean isStarted;
    private int attempt;
    private int seq;
    private final Map<String, StringBuilder> texts = new LinkedHashMap<>();
    private Event.ErrorDetail error;
    private Event.MessageEnd end;

    /**
     * How an event follows on what came before.
     *
     * @param restarted a higher attempt started, and what came so far is void
     * @param missed the events of the attempt that never came
     */
    public record Taken(boolean restarted, int missed) {}

    /**
     * @param workspace as the request names it, by its id or an absolute path; if it is null, the first event decides
     */
    public TurnReader(String turnId, String workspace) {
        this.turnId = turnId;
        this.workspace = workspace;
    }

    /** Returns null if the event is not this turn's, or not newer than what came before. */
    public Taken take(Event event) {
        Event.Envelope its = event.envelope();
        if (end != null || !its.turnId().equals(turnId) || !admits(its.workspace())) return null;
        if (isStarted && (its.attempt() < attempt || its.attempt() == attempt && its.seq() <= seq)) return null;
        boolean restarted = isStarted && its.attempt() > attempt;
        int expected = isStarted && !restarted ? seq + 1 : 0;
        isStarted = true;
        attempt = its.attempt();
        seq = its.seq();
        if (restarted) {
            texts.clear();
            error = null;
        }
        if (event instanceof Event.TextDelta piece) {
            texts.computeIfAbsent(piece.itemId(), id -> new StringBuilder()).append(piece.text());
        } else if (event instanceof Event.Error failure) {
            error = failure.error();
        } else if (event instanceof Event.MessageEnd last) {
            end = last;
        }
        return new Taken(restarted, seq - expected);
    }

    public String turnId() {
        return turnId;
    }

    /** The turn's last event; null until it has ended. */
    public Event.MessageEnd end() {
        return end;
    }

    /** Why the turn did not complete; null if that was not published. */
    public Event.ErrorDetail error() {
        return error;
    }

    /** The messages of the last attempt by item id, as far as they have come. */
    public Map<String, String> texts() {
        Map<String, String> joined = new LinkedHashMap<>();
        texts.forEach((itemId, text) -> joined.put(itemId, text.toString()));
        return joined;
    }

    /** What the turn came to, once it has ended. Throws a {@link TurnFailed} unless it completed. */
    public Answer answer() {
        String text = "";
        for (StringBuilder last : texts.values()) text = last.toString();
        return answer(end, error, text);
    }

    static Answer answer(Event.MessageEnd end, Event.ErrorDetail error, String lastText) {
        String text = end.text() == null ? lastText : end.text();
        if (end.stopReason().equals("end_turn")) return new Answer(end.turnId(), text, end.structured(), end);
        if (error == null) {
            error = new Event.ErrorDetail("turn." + end.stopReason(), endedWith(end), "unknown", false);
        }
        throw TurnFailed.of(error, text, end);
    }

    private static String endedWith(Event.MessageEnd end) {
        return end.supersededBy() == null
                ? "the turn ended with the stop reason " + end.stopReason()
                : "the turn was interrupted by the turn " + end.supersededBy();
    }

    /** Any producer can send a turn under our id, for a workspace of its own. */
    private boolean admits(String theirs) {
        // An older worker's event, or a rejection that has no workspace to name.
        if (theirs == null || theirs.isEmpty()) return true;
        if (workspace != null && !workspace.startsWith("/")) return workspace.equals(theirs);
        if (workspace != null && !endsWith(workspace, theirs)) return false;
        workspace = theirs;
        return true;
    }

    /** Only a worker knows its root, so more can't be said of a path. */
    private static boolean endsWith(String path, String workspace) {
        List<String> names = Arrays.stream(path.split("/"))
                .filter(name -> !name.isEmpty() && !name.equals("."))
                .toList();
        return ("/" + String.join("/", names)).endsWith("/" + workspace);
    }
}
