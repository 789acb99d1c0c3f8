package codexturns;

import com.google.gson.JsonObject;
import java.time.Instant;

/** Where a turn is. */
public sealed interface Description {
    String turnId();

    String workspace();

    /**
     * No turn of that id is known in that workspace.
     *
     * @param unread the turns that the broker has and the sequencer has not read; the turn may be among them
     */
    record Unknown(String turnId, String workspace, int unread) implements Description {}

    /**
     * @param place in the workspace's line, from 1; turns ahead of it, one that runs included, are place - 1
     * @param paused an operator has paused the workspace
     */
    record Waiting(String turnId, String workspace, int place, boolean paused) implements Description {}

    /** @param since when that attempt started; null if it can't be read */
    record Running(String turnId, String workspace, int attempt, Instant since) implements Description {}

    /** @param error null if absent */
    record Ended(String turnId, String workspace, Event.MessageEnd end, Event.ErrorDetail error) implements Description {}

    /** A state of a newer worker. */
    record Other(String turnId, String workspace, String state, JsonObject raw) implements Description {}
}
