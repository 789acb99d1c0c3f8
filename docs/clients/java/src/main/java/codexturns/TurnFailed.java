package codexturns;

/** A turn ended with any stop reason but {@code end_turn}; the base class of every such end. */
public class TurnFailed extends TurnClientException {
    private static final long serialVersionUID = 1;

    private final transient Event.ErrorDetail detail;
    private final transient Event.MessageEnd end;
    private final String text;

    TurnFailed(Event.ErrorDetail detail, String text, Event.MessageEnd end) {
        super(detail.message(), null);
        this.detail = detail;
        this.text = text;
        this.end = end;
    }

    static TurnFailed of(Event.ErrorDetail detail, String text, Event.MessageEnd end) {
        return switch (end.stopReason()) {
            case "timeout" -> new TimedOut(detail, text, end);
            case "cancelled" -> new Cancelled(detail, text, end);
            default -> end.attempt() == 0 ? new Rejected(detail, text, end) : new TurnFailed(detail, text, end);
        };
    }

    public String turnId() {
        return end.turnId();
    }

    /** What happened, such as {@code turn.failed}: see "Error codes" in docs/EVENTS.md. */
    public String code() {
        return detail.code();
    }

    /** Why, such as {@code rate_limited}: see "Reasons" there. */
    public String reason() {
        return detail.reason();
    }

    /** Whether the same turn, sent again under a <em>new</em> id, may succeed without any other change. */
    public boolean retryable() {
        return detail.retryable();
    }

    /** The agent's last message before that, maybe empty. */
    public String text() {
        return text;
    }

    /** The turn's last event. */
    public Event.MessageEnd end() {
        return end;
    }

    /** The request was not accepted, or the turn was not started in time; it was not run. */
    public static final class Rejected extends TurnFailed {
        private static final long serialVersionUID = 1;

        Rejected(Event.ErrorDetail detail, String text, Event.MessageEnd end) {
            super(detail, text, end);
        }
    }

    /** The turn ran longer than its limit, or codex was silent for too long. */
    public static final class TimedOut extends TurnFailed {
        private static final long serialVersionUID = 1;

        TimedOut(Event.ErrorDetail detail, String text, Event.MessageEnd end) {
            super(detail, text, end);
        }
    }

    /** The turn was cancelled. The end's {@code supersededBy} names the turn that interrupted it, if one did. */
    public static final class Cancelled extends TurnFailed {
        private static final long serialVersionUID = 1;

        Cancelled(Event.ErrorDetail detail, String text, Event.MessageEnd end) {
            super(detail, text, end);
        }
    }
}
