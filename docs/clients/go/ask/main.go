// Ask asks and prints the answer.
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
	answer, err := client.Run(ctx, "Fix the failing test", "acme/website", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Text)
}
