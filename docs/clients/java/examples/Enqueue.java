import codexturns.Request;
import codexturns.TurnClient;

/** Enqueues a turn and leaves. */
public class Enqueue {
    public static void main(String[] arguments) {
        try (TurnClient client = TurnClient.connect(System.getenv("AMQP_URL"))) {
            System.out.println(client.submit(new Request("Fix the failing test", "acme/website")));
        }
    }
}
