package codexturns;

/** The names of the workers' objects on the broker. */
public record Names(String requests, String events, String control, String log) {
    /** @param prefix the workers' setting {@code TURN_WORKER_PREFIX} */
    public static Names of(String prefix) {
        return new Names(prefix + ".requests", prefix + ".events", prefix + ".control", prefix + ".events.log");
    }
}
