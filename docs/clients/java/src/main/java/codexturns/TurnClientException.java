package codexturns;

/** All errors of this package. */
public class TurnClientException extends RuntimeException {
    private static final long serialVersionUID = 1;

    TurnClientException(String message, Throwable cause) {
        super(message, cause);
    }

    /** The broker can't be reached. Thrown by the first connection only; later ones are retried. */
    public static final class BrokerUnavailable extends TurnClientException {
        private static final long serialVersionUID = 1;

        BrokerUnavailable(String message, Throwable cause) {
            super(message, cause);
        }
    }

    /** The broker refuses an operation: a missing right, exchange or virtual host, or a message that it does not accept. */
    public static class BrokerRefused extends TurnClientException {
        private static final long serialVersionUID = 1;

        BrokerRefused(String message, Throwable cause) {
            super(message, cause);
        }
    }

    /** No queue takes it. For a turn: no worker has ever run with this prefix on this virtual host. */
    public static final class NoWorker extends BrokerRefused {
        private static final long serialVersionUID = 1;

        NoWorker(String message) {
            super(message, null);
        }
    }

    /** The broker has no queue or exchange of that name. */
    static final class NotFound extends BrokerRefused {
        private static final long serialVersionUID = 1;

        NotFound(String message, Throwable cause) {
            super(message, cause);
        }
    }

    /** No worker has ever run with {@code TURN_WORKER_EVENT_LOG=on}. */
    public static final class NoEventLog extends BrokerRefused {
        private static final long serialVersionUID = 1;

        NoEventLog(Throwable cause) {
            super("there is no event log: " + cause.getMessage(), cause);
        }
    }

    /** The turn is not in the event log: it has not started, is older than the log, or never was. */
    public static final class TurnNotInLog extends TurnClientException {
        private static final long serialVersionUID = 1;

        TurnNotInLog(String message) {
            super(message, null);
        }
    }

    /** No worker has answered a question. */
    public static final class NoAnswer extends TurnClientException {
        private static final long serialVersionUID = 1;

        NoAnswer(String message, Throwable cause) {
            super(message, cause);
        }
    }

    /** The client was closed before the turn ended. The turn goes on. */
    public static final class ClientClosed extends TurnClientException {
        private static final long serialVersionUID = 1;

        ClientClosed() {
            super("the client is closed", null);
        }
    }
}
