// Probe uses the library as services do, for tests/it/clients, which have a worker answer and look at what is printed.
//
//	AMQP_URL=amqp://… probe scripted     with a worker that repeats each prompt
//	AMQP_URL=amqp://… probe pool         with a real one
//	AMQP_URL=amqp://… probe restart      the same turn in each process
//	AMQP_URL=amqp://… probe asking       with a real one, which it asks where its turns are
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"codex-turn-worker/codexturns"
)

var ctx = context.Background()

func connect(options *codexturns.Options) *codexturns.Client {
	client, err := codexturns.Connect(ctx, os.Getenv("AMQP_URL"), options)
	check(err)
	return client
}

func typesOf(events <-chan codexturns.Event) []any {
	types := []any{}
	for event := range events {
		switch event.(type) {
		case *codexturns.MessageStart:
			types = append(types, "message_start")
		case *codexturns.TextDelta:
			types = append(types, "text_delta")
		case *codexturns.MessageEnd:
			types = append(types, "message_end")
		default:
			types = append(types, fmt.Sprintf("%T", event))
		}
	}
	return types
}

func scripted() {
	client := connect(nil)
	var all sync.WaitGroup
	var lock sync.Mutex
	many := 0
	for n := 0; n < 500; n++ {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			answer, err := client.Run(ctx, fmt.Sprintf("turn %d", n), fmt.Sprintf("w%d", n), nil)
			check(err)
			lock.Lock()
			defer lock.Unlock()
			if answer.Text == fmt.Sprintf("turn %d", n) {
				many++
			}
		}(n)
	}
	all.Wait()
	fmt.Println("many", many)
	_, err := client.Run(ctx, "fail", "a", nil)
	var failed *codexturns.TurnFailed
	if errors.As(err, &failed) {
		fmt.Println("failed", failed.Code, failed.Reason, failed.Retryable)
	}
	client.Close()

	small := connect(&codexturns.Options{BufferLimit: 10})
	slow, err := small.Stream(ctx, "flood 50", "a", nil)
	check(err)
	answer, err := slow.Answer()
	check(err)
	other, err := small.Run(ctx, "other", "b", nil)
	check(err)
	kept := typesOf(slow.Events())
	fmt.Println("slow", len(answer.Text), len(kept), kept[len(kept)-1], slow.Missed(), other.Text)
	small.Close()
}

func pool() {
	client := connect(nil)
	_, err := client.Run(ctx, "say no", "../a", nil)
	var failed *codexturns.TurnFailed
	if errors.Is(err, codexturns.ErrRejected) && errors.As(err, &failed) {
		fmt.Println("rejected", failed.Code, failed.Retryable)
	}
	turn, err := client.Stream(ctx, "t1\nsay hi", "a", nil)
	check(err)
	fmt.Println(append([]any{"stream"}, typesOf(turn.Events())...)...)
	again, err := client.Run(ctx, "t1\nsay hi", "a", &codexturns.Request{TurnID: turn.ID})
	check(err)
	fmt.Println("again", again.Text, again.TurnID == turn.ID)
	left, err := client.Stream(ctx, "t2\nsay left\nwait never", "a", nil)
	check(err)
	for event := range left.Events() {
		if _, is := event.(*codexturns.TextDelta); is {
			break
		}
	}
	left.Close()
	fmt.Println("left", left.ID)
	abandon, cancel := context.WithCancel(ctx)
	waiting, err := client.Stream(abandon, "t3\nsay no\nwait never", "b", &codexturns.Request{TurnID: "abandoned"})
	check(err)
	_, err = client.Run(ctx, "t4\nsay yes", "c", nil)
	check(err)
	cancel()
	if _, err := waiting.Answer(); errors.Is(err, context.Canceled) {
		fmt.Println("abandoned Canceled")
	}
	client.Close()
}

func restart() {
	client := connect(&codexturns.Options{Queue: "guest.restart"})
	turn, err := client.Stream(ctx, "t1\nsay before\nwait go\nsay after", "a", &codexturns.Request{TurnID: "restart"})
	check(err)
	for event := range turn.Events() {
		if piece, is := event.(*codexturns.TextDelta); is {
			fmt.Println(piece.Text)
		}
	}
	answer, err := turn.Answer()
	check(err)
	fmt.Println("answer", answer.Text)
	client.Close()
}

func asking() {
	client := connect(nil)
	answer, err := client.RunByReply(ctx, "t1\nsay hi", "a", nil)
	check(err)
	again, err := client.RunByReply(ctx, "t1\nsay hi", "a", &codexturns.Request{TurnID: answer.TurnID})
	check(err)
	fmt.Println("reply", answer.Text, again.Text)
	for _, turn := range [][2]string{{"say no", "../a"}, {"t2\nfail no luck", "a"}} {
		_, err := client.RunByReply(ctx, turn[0], turn[1], nil)
		var failed *codexturns.TurnFailed
		if errors.As(err, &failed) {
			kind := "TurnFailed"
			if errors.Is(err, codexturns.ErrRejected) {
				kind = "TurnRejected"
			}
			fmt.Println(kind, failed.Code, failed.Reason, failed.Retryable)
		}
	}
	turn, err := client.Stream(ctx, "t3\nsay on\nwait never", "a", nil)
	check(err)
	for event := range turn.Events() {
		if _, is := event.(*codexturns.TextDelta); is {
			break
		}
	}
	last, err := client.Submit(ctx, "t4\nsay last", "a", nil)
	check(err)
	for _, of := range [][2]string{{turn.ID, "a"}, {last, "a"}, {turn.ID, "b"}} {
		found, err := client.Describe(ctx, of[0], of[1])
		check(err)
		switch found.State {
		case codexturns.StateRunning:
			fmt.Println("running", found.Attempt)
		case codexturns.StateWaiting:
			fmt.Println("waiting", found.Place)
		default:
			fmt.Println(found.State)
		}
	}
	turn.Close()
	ended, err := client.Describe(ctx, answer.TurnID, "a")
	check(err)
	if ended.State == codexturns.StateEnded {
		fmt.Println("ended", *ended.End.Text)
	}
	// That it is unknown takes longer.
	soon, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := client.Describe(soon, "never-sent", "a"); errors.Is(err, codexturns.ErrNoAnswer) {
		fmt.Println("no answer")
	}
	client.Close()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	modes := map[string]func(){"scripted": scripted, "pool": pool, "restart": restart, "asking": asking}
	modes[os.Args[1]]()
}
