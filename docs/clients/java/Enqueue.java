import com.google.gson.Gson;
import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.MessageProperties;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicBoolean;

/** Enqueues a turn and leaves. */
public class Enqueue {
    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv().getOrDefault("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"));
        try (Connection connection = factory.newConnection()) {
            Channel channel = connection.createChannel();
            channel.confirmSelect();
            AtomicBoolean returned = new AtomicBoolean();
            channel.addReturnListener((code, text, exchange, key, properties, body) -> returned.set(true));

            String turnId = UUID.randomUUID().toString();
            Map<String, Object> request = Map.of(
                    "turn_id", turnId,
                    "workspace", "acme/website",
                    "messages", List.of(Map.of("role", "user", "content", "Fix the failing test")));
            byte[] body = new Gson().toJson(request).getBytes("UTF-8");
            BasicProperties properties = MessageProperties.PERSISTENT_TEXT_PLAIN.builder().messageId(turnId).build();
            channel.basicPublish("codex.requests", "turn", true, properties, body);
            channel.waitForConfirmsOrDie(); // throws when the broker does not take it
            if (returned.get()) throw new IllegalStateException("codex.requests has no queue: no worker has ever run here");
            System.out.println(turnId);
        }
    }
}
