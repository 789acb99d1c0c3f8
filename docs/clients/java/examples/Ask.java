import codexturns.TurnClient;

/** Asks and prints the answer. */
public class Ask {
    public static void main(String[] arguments) {
        try (TurnClient client = TurnClient.connect(System.getenv("AMQP_URL"))) {
            System.out.println(client.run("Fix the failing test", "acme/website").text());
        }
    }
}
