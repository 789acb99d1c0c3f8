// Enqueue enqueues a turn and leaves.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

func main() {
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	check(err)
	defer connection.Close()
	channel, err := connection.Channel()
	check(err)
	check(channel.Confirm(false))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	returns := channel.NotifyReturn(make(chan amqp.Return, 1))

	turnID := uuid.NewString()
	body, err := json.Marshal(map[string]any{
		"turn_id":   turnID,
		"workspace": "acme/website",
		"messages":  []map[string]string{{"role": "user", "content": "Fix the failing test"}},
	})
	check(err)
	message := amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: turnID, Body: body,
	}
	check(channel.PublishWithContext(context.Background(), "codex.requests", "turn", true, false, message))
	if confirm, open := <-confirms; !open || !confirm.Ack || len(returns) > 0 {
		log.Fatal("the broker did not take it: has a worker ever run here, with the exchange codex.requests?")
	}
	fmt.Println(turnID)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
