package codexturns;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Address;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.ListAddressResolver;
import com.rabbitmq.client.Method;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.net.URISyntaxException;
import java.security.GeneralSecurityException;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentNavigableMap;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;

/** One connection to the broker. It is never repaired: when it is lost, another takes its place. */
final class Link {
    static final String DIRECT_REPLY = "amq.rabbitmq.reply-to";
    private static final int CONNECT_TIMEOUT_MS = 30_000;
    private static final int HEARTBEAT_S = 10;
    private static final int CLOSE_TIMEOUT_MS = 5_000;

    /** The connection is gone. What was in flight on it may have happened or not. */
    static final class Lost extends TurnClientException {
        private static final long serialVersionUID = 1;

        Lost(String reason) {
            super(reason, null);
        }
    }

    /** What is done on a channel. */
    private interface Operation {
        void on(Channel channel) throws IOException, TimeoutException;
    }

    /** Completes with the reason when it is lost; from then on everything on it throws {@link Lost}. */
    final CompletableFuture<String> lost = new CompletableFuture<>();

    private final Connection connection;
    private final Publisher publisher = new Publisher(null);
    private final Publisher asker;
    private Channel setup;

    private Link(Connection connection, Consumer<Delivery> onReply) {
        this.connection = connection;
        this.asker = new Publisher(onReply);
        connection.addShutdownListener(signal -> lost.complete(reasonOf(signal)));
    }

    /** Throws {@link TurnClientException.BrokerUnavailable}. */
    static Link open(String url, String name, Consumer<ConnectionFactory> configure, Consumer<Delivery> onReply) {
        try {
            ConnectionFactory factory = new ConnectionFactory();
            factory.setUri(url);
            if (url.startsWith("amqps:")) {
                verifyCertificates(factory);
            }
            factory.setAutomaticRecoveryEnabled(false);
            factory.setConnectionTimeout(CONNECT_TIMEOUT_MS);
            factory.setRequestedHeartbeat(HEARTBEAT_S);
            factory.setChannelRpcTimeout(CONNECT_TIMEOUT_MS);
            configure.accept(factory);
            return new Link(connect(factory, name), onReply);
        } catch (IOException | TimeoutException | URISyntaxException | GeneralSecurityException error) {
            String message = "the broker can't be reached: " + wordsOf(error);
            throw new TurnClientException.BrokerUnavailable(message, error);
        }
    }

    /** By default the AMQP library passes the resolved address to TLS; certificates name hosts. */
    private static Connection connect(ConnectionFactory factory, String name) throws IOException, TimeoutException {
        if (!factory.isSSL()) {
            return factory.newConnection(name);
        }
        Address host = new Address(factory.getHost(), factory.getPort());
        return factory.newConnection(null, new ListAddressResolver(List.of(host)), name);
    }

    /** By default the AMQP library trusts any certificate. */
    private static void verifyCertificates(ConnectionFactory factory) throws GeneralSecurityException {
        factory.useSslProtocol(SSLContext.getDefault());
        factory.setSocketConfigurator(socket -> {
            socket.setTcpNoDelay(true);
            if (socket instanceof SSLSocket tls) {
                SSLParameters parameters = tls.getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS");
                tls.setSSLParameters(parameters);
            }
        });
    }

    /** Never throws: what is closed is needed no more. */
    void close() {
        lost.complete("closed");
        connection.abort(CLOSE_TIMEOUT_MS);
    }

    boolean isLost() {
        return lost.isDone();
    }

    /** Completes when the broker has it, exceptionally with {@link TurnClientException.NoWorker} if no queue takes it. */
    CompletableFuture<Void> publish(String exchange, String key, String messageId, byte[] body) {
        return publisher.publish(exchange, key, new AMQP.BasicProperties.Builder().messageId(messageId), body);
    }

    /** Publishes on the channel that gets the reply, for which the correlation id is looked at. */
    CompletableFuture<Void> ask(String exchange, String key, String messageId, String correlationId, byte[] body) {
        AMQP.BasicProperties.Builder properties = new AMQP.BasicProperties.Builder()
                .messageId(messageId)
                .correlationId(correlationId)
                .replyTo(DIRECT_REPLY);
        return asker.publish(exchange, key, properties, body);
    }

    /** Declares a queue for events. It outlives the connection: events that come meanwhile wait in it. */
    void declare(String queue, long lifetimeMs) {
        setUp("declare " + queue, c -> c.queueDeclare(queue, true, false, false, Map.of("x-expires", lifetimeMs)));
    }

    void delete(String queue) {
        setUp("delete " + queue, channel -> channel.queueDelete(queue));
    }

    void bind(String queue, String exchange, String key) {
        setUp("bind to " + exchange, channel -> channel.queueBind(queue, exchange, key));
    }

    void unbind(String queue, String exchange, String key) {
        setUp("unbind from " + exchange, channel -> channel.queueUnbind(queue, exchange, key));
    }

    /**
     * Reads a queue; each delivery comes with what acks it. If the broker ends the consumer, the link is lost, unless what is
     * returned has ended it before. Messages are never rejected: streams don't take that.
     */
    Runnable consume(String queue, int prefetch, Map<String, Object> arguments, BiConsumer<Delivery, Runnable> onDelivery) {
        AtomicBoolean isWanted = new AtomicBoolean(true);
        Channel[] opened = new Channel[1];
        call("consume " + queue, () -> {
            Channel channel = connection.createChannel();
            opened[0] = channel;
            channel.basicQos(prefetch);
            channel.basicConsume(
                    queue,
                    false,
                    arguments,
                    (tag, delivery) -> {
                        if (isWanted.get()) onDelivery.accept(delivery, () -> ack(channel, delivery));
                    },
                    tag -> {
                        if (isWanted.get()) lost.complete("the broker has ended the consumer");
                    },
                    (tag, signal) -> {
                        if (isWanted.get()) lost.complete(reasonOf(signal));
                    });
        });
        return () -> {
            isWanted.set(false);
            try {
                opened[0].abort();
            } catch (IOException error) {
                // It is gone already.
            }
        };
    }

    private static void ack(Channel channel, Delivery delivery) {
        try {
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
        } catch (IOException | ShutdownSignalException error) {
            // The link is lost, which is noticed elsewhere.
        }
    }

    /** One at a time, so that a refusal, which closes the channel, is that of the operation that caused it. */
    private synchronized void setUp(String what, Operation operation) {
        call(what, () -> {
            if (setup == null || !setup.isOpen()) setup = connection.createChannel();
            operation.on(setup);
        });
    }

    private interface Call {
        void run() throws IOException, TimeoutException;
    }

    private void call(String what, Call operation) {
        if (isLost()) throw new Lost(lost.join());
        try {
            operation.run();
        } catch (IOException | TimeoutException | ShutdownSignalException error) {
            throw failure(what, error);
        }
    }

    private TurnClientException failure(String what, Exception error) {
        Throwable cause = error instanceof IOException && error.getCause() != null ? error.getCause() : error;
        if (cause instanceof ShutdownSignalException signal && !signal.isHardError() && signal.getReason() != null) {
            String message = "can't " + what + ": " + reasonOf(signal);
            boolean isNotFound = signal.getReason() instanceof AMQP.Channel.Close close && close.getReplyCode() == 404;
            return isNotFound
                    ? new TurnClientException.NotFound(message, error)
                    : new TurnClientException.BrokerRefused(message, error);
        }
        lost.complete(cause instanceof ShutdownSignalException signal ? reasonOf(signal) : wordsOf(cause));
        return new Lost(lost.join());
    }

    /** The broker's own words, where it has said some. */
    private static String reasonOf(ShutdownSignalException signal) {
        Method reason = signal.getReason();
        if (reason instanceof AMQP.Channel.Close close) return close.getReplyText();
        if (reason instanceof AMQP.Connection.Close close) return close.getReplyText();
        return signal.getCause() == null ? wordsOf(signal) : wordsOf(signal.getCause());
    }

    private static String wordsOf(Throwable error) {
        String name = error.getClass().getSimpleName();
        return error.getMessage() == null ? name : name + ": " + error.getMessage();
    }

    /** A channel with confirms, opened again after a refusal has closed it. */
    private final class Publisher {
        private final Consumer<Delivery> onReply;
        private Channel channel;
        private Confirms confirms;

        /** @param onReply if it is given, the channel also consumes the broker's direct replies */
        Publisher(Consumer<Delivery> onReply) {
            this.onReply = onReply;
        }

        synchronized CompletableFuture<Void> publish(
                String exchange, String key, AMQP.BasicProperties.Builder properties, byte[] body) {
            CompletableFuture<Void> confirmed = new CompletableFuture<>();
            String what = "publish to " + exchange;
            try {
                call(what, () -> {
                    if (channel == null || !channel.isOpen()) open();
                    String messageId = properties.build().getMessageId();
                    if (messageId == null) messageId = UUID.randomUUID().toString();
                    AMQP.BasicProperties all = properties
                            .messageId(messageId)
                            .contentType("application/json")
                            .deliveryMode(2)
                            .timestamp(new Date())
                            .build();
                    confirms.expect(channel.getNextPublishSeqNo(), new Confirms.Expected(what, messageId, confirmed));
                    channel.basicPublish(exchange, key, true, all, body);
                });
            } catch (TurnClientException error) {
                confirmed.completeExceptionally(error);
            }
            return confirmed;
        }

        private void open() throws IOException {
            Channel opened = connection.createChannel();
            Confirms waiting = new Confirms();
            opened.confirmSelect();
            opened.addReturnListener(returned -> waiting.returned(returned.getProperties().getMessageId()));
            opened.addConfirmListener(
                    (tag, multiple) -> waiting.settle(tag, multiple, true), (tag, multiple) -> waiting.settle(tag, multiple, false));
            opened.addShutdownListener(signal -> waiting.fail(signal));
            if (onReply != null) {
                opened.basicConsume(DIRECT_REPLY, true, (tag, delivery) -> onReply.accept(delivery), tag -> {});
            }
            channel = opened;
            confirms = waiting;
        }
    }

    /** The messages of a channel that the broker has not confirmed yet. */
    private final class Confirms {
        record Expected(String what, String messageId, CompletableFuture<Void> confirmed) {}

        private final ConcurrentNavigableMap<Long, Expected> waiting = new ConcurrentSkipListMap<>();
        private final Set<String> returned = ConcurrentHashMap.newKeySet();
        private volatile ShutdownSignalException end;

        void expect(long tag, Expected expected) {
            waiting.put(tag, expected);
            if (end != null) fail(end);
        }

        /** A returned message comes before its confirm. */
        void returned(String messageId) {
            returned.add(messageId);
        }

        void settle(long tag, boolean multiple, boolean isAcked) {
            Map<Long, Expected> settled = multiple ? waiting.headMap(tag, true) : waiting.subMap(tag, true, tag, true);
            for (Long each : settled.keySet()) {
                Expected expected = waiting.remove(each);
                if (expected != null) settle(expected, isAcked);
            }
        }

        private void settle(Expected expected, boolean isAcked) {
            String refusal = "can't " + expected.what();
            if (returned.remove(expected.messageId())) {
                TurnClientException error = new TurnClientException.NoWorker(refusal + ": no queue is bound to it");
                expected.confirmed().completeExceptionally(error);
            } else if (isAcked) {
                expected.confirmed().complete(null);
            } else {
                TurnClientException error =
                        new TurnClientException.BrokerRefused(refusal + ": the broker has refused it", null);
                expected.confirmed().completeExceptionally(error);
            }
        }

        void fail(ShutdownSignalException signal) {
            end = signal;
            for (Long tag : waiting.keySet()) {
                Expected expected = waiting.remove(tag);
                if (expected != null) expected.confirmed().completeExceptionally(failure(expected.what(), signal));
            }
        }
    }
}
