// Enqueue enqueues a turn and leaves.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"codex-turn-worker/codexturns"
)

func main() {
	ctx := context.Background()
	client, err := codexturns.Connect(ctx, os.Getenv("AMQP_URL"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	turnID, err := client.Submit(ctx, "Fix the failing test", "acme/website", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(turnID)
}
