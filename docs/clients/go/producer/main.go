// Producer sends prompts to a workspace, each a turn of the same conversation, and prints the answers as they come.
//
//	AMQP_URL=amqp://… producer WORKSPACE PROMPT [PROMPT…]
//	AMQP_URL=amqp://… producer --tail TURN_ID [WORKSPACE]
//
// The second form comes late: it prints a turn from the event log, if the operator keeps one, and follows it to its end.
//
// Ctrl-C cancels the turn; a second one leaves at once. Exit status: 0 if every turn completed, 124 if one timed out, 130 if it
// was cancelled, 2 for wrong arguments, 1 for everything else.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"

	"codex-turn-worker/codexturns"
)

var exitStatus = map[string]int{codexturns.EndTurn: 0, codexturns.TimedOut: 124, codexturns.Cancelled: 130}

func say(text string) { fmt.Fprintln(os.Stderr, text) }

// printer prints what the agent says, each message on lines of its own.
type printer struct {
	itemID, text string // of the message that came last
	lineIsOpen   bool
}

func (p *printer) print(event codexturns.Event) {
	switch e := event.(type) {
	case *codexturns.Restarted:
		p.beginMessage("")
		say(fmt.Sprintf("attempt %d: it starts again, forget the text so far", e.Attempt))
	case *codexturns.TextDelta:
		if e.ItemID != p.itemID {
			p.beginMessage(e.ItemID)
		}
		p.show(e.Text)
	case *codexturns.ErrorEvent:
		p.endLine()
		say(e.Error.Code + ": " + e.Error.Message)
	case *codexturns.MessageEnd:
		if e.Text != nil && *e.Text != p.text { // pieces of it were missed
			p.beginMessage("")
			p.show(*e.Text)
		}
		p.endLine()
		usage, _ := json.Marshal(e.Usage)
		say(fmt.Sprintf("%s, tokens: %s", e.StopReason, usage))
	}
}

func (p *printer) beginMessage(itemID string) {
	p.endLine()
	p.itemID, p.text = itemID, ""
}

func (p *printer) show(text string) {
	fmt.Print(text)
	p.text += text
	p.lineIsOpen = true
}

func (p *printer) endLine() {
	if p.lineIsOpen {
		fmt.Println()
	}
	p.lineIsOpen = false
}

// show returns the stop reason.
func show(events <-chan codexturns.Event) string {
	var printer printer
	stopReason := ""
	for event := range events {
		printer.print(event)
		if end, is := event.(*codexturns.MessageEnd); is {
			stopReason = end.StopReason
		}
	}
	return stopReason
}

func run(ctx context.Context, client *codexturns.Client, workspace string, prompts []string) (string, error) {
	stopReason := ""
	for _, prompt := range prompts {
		turnID := codexturns.NewTurnID()
		say("turn " + turnID)
		turn, err := client.Stream(ctx, prompt, workspace, &codexturns.Request{TurnID: turnID})
		if err != nil {
			return "", err
		}
		interrupts := make(chan os.Signal, 1)
		signal.Notify(interrupts, os.Interrupt)
		go func() {
			<-interrupts
			signal.Reset(os.Interrupt) // the next one ends the program
			turn.Cancel()
		}()
		stopReason = show(turn.Events())
		signal.Reset(os.Interrupt)
		if stopReason == "" {
			_, err := turn.Answer()
			return "", err
		} else if stopReason != codexturns.EndTurn {
			break
		}
	}
	return stopReason, nil
}

func tail(ctx context.Context, client *codexturns.Client, turnID string, workspace []string) (string, error) {
	var options codexturns.TailOptions
	if len(workspace) > 0 {
		options.Workspace = workspace[0]
	}
	tail := client.Tail(ctx, turnID, &options)
	stopReason := show(tail.Events())
	return stopReason, tail.Err()
}

func program(arguments []string) (string, error) {
	ctx := context.Background()
	client, err := codexturns.Connect(ctx, os.Getenv("AMQP_URL"), &codexturns.Options{OnStatus: say})
	if err != nil {
		return "", err
	}
	defer client.Close()
	if arguments[0] == "--tail" {
		return tail(ctx, client, arguments[1], arguments[2:])
	}
	return run(ctx, client, arguments[0], arguments[1:])
}

func main() {
	if len(os.Args) < 3 {
		say("usage: producer WORKSPACE PROMPT [PROMPT…]\n       producer --tail TURN_ID [WORKSPACE]")
		os.Exit(2)
	}
	stopReason, err := program(os.Args[1:])
	if err != nil {
		say("can't go on: " + err.Error())
		os.Exit(1)
	}
	status, isKnown := exitStatus[stopReason]
	if !isKnown {
		status = 1
	}
	os.Exit(status)
}
