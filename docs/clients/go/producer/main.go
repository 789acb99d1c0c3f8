// Producer sends prompts to a workspace, each a turn of the same conversation, and prints the answers as they come.
//
//	AMQP_URL=amqp://… producer WORKSPACE PROMPT [PROMPT…]
//	AMQP_URL=amqp://… producer --tail TURN_ID [WORKSPACE]
//
// The second form comes late: it prints a turn from the event log, if the operator keeps one, and follows it to its end.
//
// Ctrl-C cancels the turn; a second one leaves at once.  Exit status: 0 if every turn came to its end, 124 if one ran
// out of time, 130 if it was cancelled, 2 for wrong arguments, 1 for everything else.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	queueLifetime  = 10 * time.Minute // how long events wait for a reader that is gone
	reconnectPause = time.Second
	cancelPause    = 5 * time.Second

	maxChunk = 65_535           // messages of a chunk of the log, which is delivered whole
	quiet    = time.Second      // after the newest message: what stands in one chunk with it comes at once
	silent   = 10 * time.Second // nothing at all comes: the log is empty
)

var exitStatus = map[string]int{"end_turn": 0, "error": 1, "timeout": 124, "cancelled": 130}

type request struct {
	TurnID    string    `json:"turn_id"`
	Workspace string    `json:"workspace"`
	Messages  []message `json:"messages"`
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// An event, as far as it is shown here: see docs/EVENTS.md for the others and their fields.
type event struct {
	TurnID     string          `json:"turn_id"`
	Workspace  string          `json:"workspace"`
	Attempt    int             `json:"attempt"`
	Seq        int             `json:"seq"`
	Type       string          `json:"type"`
	ItemID     string          `json:"item_id"`
	Text       *string         `json:"text"`
	Error      *turnError      `json:"error"`
	StopReason string          `json:"stop_reason"`
	Usage      json.RawMessage `json:"usage"`
}

type turnError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// The broker does not take it, and would not if it were sent again.
type refusal string

func (r refusal) Error() string { return string(r) }

// No queue takes it.
type unroutable string

func (u unroutable) Error() string { return string(u) }

func isRefusal(err error) bool {
	var broker *amqp.Error
	if errors.As(err, &broker) {
		return broker.Server && broker.Recover // it has closed the channel, not the connection
	}
	var own refusal
	var back unroutable
	return errors.As(err, &own) || errors.As(err, &back)
}

func say(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
}

// A connection, and a queue for events that outlives it: what comes while there is none waits there.
type broker struct {
	url        string
	queue      string
	connection *amqp.Connection
	channel    *amqp.Channel
	confirms   chan amqp.Confirmation
	returns    chan amqp.Return
	closed     chan *amqp.Error
	deliveries <-chan amqp.Delivery
}

func newBroker(url string) (*broker, error) {
	uri, err := amqp.ParseURI(url)
	if err != nil {
		return nil, err
	}
	b := &broker{url: url, queue: uri.Username + "." + uuid.NewString()}
	return b, b.connect()
}

func (b *broker) connect() (err error) {
	if b.connection, err = amqp.Dial(b.url); err != nil {
		return err
	}
	if b.channel, err = b.connection.Channel(); err != nil {
		return err
	}
	if err = b.channel.Confirm(false); err != nil {
		return err
	}
	b.confirms = b.channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	b.closed = b.channel.NotifyClose(make(chan *amqp.Error, 1))
	b.returns = b.channel.NotifyReturn(make(chan amqp.Return, 1))
	if err = b.channel.Qos(100, 0, false); err != nil {
		return err
	}
	lifetime := amqp.Table{"x-expires": queueLifetime.Milliseconds()}
	if _, err = b.channel.QueueDeclare(b.queue, true, false, false, false, lifetime); err != nil {
		return err
	}
	b.deliveries, err = b.channel.Consume(b.queue, "", false, false, false, false, nil)
	return err
}

func (b *broker) reconnect() error {
	b.connection.Close()
	for {
		err := b.connect()
		if err == nil || isRefusal(err) {
			return err
		}
		time.Sleep(reconnectPause)
	}
}

func (b *broker) close() {
	// If it is lost, the queue goes when its time is up.
	b.channel.QueueDelete(b.queue, false, false, false)
	b.connection.Close()
}

// Returns without an error when the broker has it.
func (b *broker) publish(exchange, key, turnID string, content any) error {
	body, err := json.Marshal(content)
	if err != nil {
		return err
	}
	err = b.channel.PublishWithContext(context.Background(), exchange, key, true, false, amqp.Publishing{
		ContentType:  "application/json",
		DeliveryMode: amqp.Persistent, // survives a restart of the broker
		MessageId:    turnID,          // rejections are published under it, even if the body can't be read
		Timestamp:    time.Now(),
		Body:         body,
	})
	if err != nil {
		return err
	}
	confirm, open := <-b.confirms
	switch {
	case !open:
		if err := <-b.closed; err != nil {
			return err
		}
		return amqp.ErrClosed
	case !confirm.Ack:
		return refusal(exchange + " refuses it")
	case len(b.returns) > 0:
		<-b.returns
		return unroutable("no queue is bound to " + exchange)
	}
	return nil
}

func (b *broker) enqueue(turn request) error {
	return b.publish("codex.requests", "turn", turn.TurnID, turn)
}

func (b *broker) cancel(turnID string) error {
	err := b.publish("codex.control", "", turnID, map[string]string{"action": "cancel", "turn_id": turnID})
	if _, isUnroutable := err.(unroutable); isUnroutable {
		say("no worker is connected, so the cancel is repeated until one is")
		return nil
	}
	return err
}

// A reader shows the events of one turn, each once.
type reader struct {
	turnID       string
	workspace    string
	stopReason   string // once it has ended
	attempt, seq int
	itemID       string
	text         string // of the message that came last
	lineIsOpen   bool
}

func newReader(turnID, workspace string) *reader {
	if strings.HasPrefix(workspace, "/") {
		workspace = "" // a path, which only a worker can tell the id of: as without one, that of the first event is read
	}
	return &reader{turnID: turnID, workspace: workspace, seq: -1}
}

// Any producer can send a turn under our id, for a workspace of its own.
func (r *reader) isOurs(e event) bool {
	if e.TurnID != r.turnID {
		return false
	}
	if e.Workspace == "" {
		return true // an older worker's event, or a rejection that could not tell it
	}
	if r.workspace == "" {
		r.workspace = e.Workspace
	}
	return e.Workspace == r.workspace
}

func (r *reader) take(e event) {
	if !r.isOurs(e) {
		return
	}
	if e.Attempt < r.attempt || e.Attempt == r.attempt && e.Seq <= r.seq {
		return // told before
	}
	if e.Attempt > r.attempt && r.seq >= 0 {
		r.beginMessage("")
		say("attempt %d: it starts again, forget the text so far", e.Attempt)
	}
	r.attempt, r.seq = e.Attempt, e.Seq

	switch e.Type {
	case "text_delta":
		if e.ItemID != r.itemID {
			r.beginMessage(e.ItemID)
		}
		r.show(*e.Text)
	case "error":
		r.endLine()
		say("%s: %s", e.Error.Code, e.Error.Message)
	case "message_end":
		if e.Text != nil && *e.Text != r.text { // pieces of it were missed
			r.beginMessage("")
			r.show(*e.Text)
		}
		r.endLine()
		if e.Usage == nil {
			e.Usage = json.RawMessage("null")
		}
		say("%s, tokens: %s", e.StopReason, e.Usage)
		r.stopReason = e.StopReason
	}
}

func (r *reader) beginMessage(itemID string) {
	r.endLine()
	r.itemID = itemID
	r.text = ""
}

func (r *reader) show(text string) {
	fmt.Print(text)
	r.text += text
	r.lineIsOpen = true
}

func (r *reader) endLine() {
	if r.lineIsOpen {
		fmt.Println()
	}
	r.lineIsOpen = false
}

// Sends the turn and reads to its end.  Safe to call again: a turn runs once, however often it is sent.
func follow(interrupted context.Context, b *broker, turn request, r *reader) error {
	// Bind before you publish: what is published while nobody is bound is gone.
	if err := b.channel.QueueBind(b.queue, turn.TurnID, "codex.events", false, nil); err != nil {
		return err
	}
	if err := b.enqueue(turn); err != nil {
		return err
	}
	var nextCancel time.Time
	clock := time.NewTicker(200 * time.Millisecond)
	defer clock.Stop()
	for {
		select {
		case delivery, open := <-b.deliveries:
			if !open {
				return errors.New("the broker has ended the consumer")
			}
			var e event
			if err := json.Unmarshal(delivery.Body, &e); err != nil {
				return err
			}
			r.take(e)
			if err := delivery.Ack(false); err != nil || r.stopReason != "" {
				return err
			}
		case <-clock.C:
			if interrupted.Err() != nil && time.Now().After(nextCancel) {
				if err := b.cancel(turn.TurnID); err != nil { // and again, for nobody may have heard it
					return err
				}
				nextCancel = time.Now().Add(cancelPause)
			}
		}
	}
}

// Returns how it ended, over as many connections as that takes.
func runTurn(interrupted context.Context, b *broker, workspace, prompt string) (string, error) {
	turn := request{uuid.NewString(), workspace, []message{{"user", prompt}}}
	r := newReader(turn.TurnID, workspace)
	say("turn %s", turn.TurnID)
	for r.stopReason == "" {
		if err := follow(interrupted, b, turn, r); err != nil && r.stopReason == "" {
			if isRefusal(err) {
				return "", err
			}
			say("lost the broker: %v", err)
			if err := b.reconnect(); err != nil {
				return "", err
			}
			say("connected again")
		}
	}
	return r.stopReason, nil
}

// Prints a turn from the event log.  Returns how it ended, over as many connections as that takes.
func tail(url, turnID, workspace string) (string, error) {
	r := newReader(turnID, workspace)
	var offset any = "first"
	for {
		err := readLog(url, r, &offset)
		if r.stopReason != "" {
			return r.stopReason, nil
		}
		if isRefusal(err) || offset == "first" {
			return "", err
		}
		say("lost the broker: %v", err)
		time.Sleep(reconnectPause)
	}
}

func readLog(url string, r *reader, offset *any) error {
	connection, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err = channel.Qos(100, 0, false); err != nil { // a stream has no consumer without
		return err
	}
	newest, filter, err := newestOf(connection, r.turnID)
	if err != nil {
		return err
	}
	arguments := amqp.Table{"x-stream-offset": *offset, "x-stream-filter": filter}
	deliveries, err := channel.Consume("codex.events.log", "", false, false, false, false, arguments)
	if err != nil {
		return err
	}
	caughtUp := time.NewTimer(silent)
	defer caughtUp.Stop()
	if newest < 0 {
		caughtUp.Reset(quiet)
	}
	for {
		select {
		case <-caughtUp.C:
			if r.seq < 0 {
				return refusal("the event log has nothing of turn " + r.turnID +
					": it has not begun, is older than the log, or never was")
			}
		case delivery, open := <-deliveries:
			if !open {
				return errors.New("the broker has ended the consumer")
			}
			number := offsetOf(delivery)
			*offset = number + 1
			caughtUp.Reset(patience(number, newest))
			var e event
			if err := json.Unmarshal(delivery.Body, &e); err != nil {
				return err
			}
			r.take(e) // the filter lets others through, too
			if err := delivery.Ack(false); err != nil || r.stopReason != "" {
				return err
			}
		}
	}
}

// Returns the offset of the log's newest message, or -1 if there is none, and a filter that lets it through, too: once it
// has come by, all that the log had of the turn has.
func newestOf(connection *amqp.Connection, turnID string) (int64, []any, error) {
	filter := []any{turnID}
	channel, err := connection.Channel()
	if err != nil {
		return -1, nil, err
	}
	defer channel.Close()
	if err = channel.Qos(100, 0, false); err != nil {
		return -1, nil, err
	}
	arguments := amqp.Table{"x-stream-offset": "last"}
	deliveries, err := channel.Consume("codex.events.log", "", false, false, false, false, arguments)
	if err != nil {
		return -1, nil, err
	}
	select {
	case <-time.After(silent):
		return -1, filter, nil
	case delivery, open := <-deliveries:
		if !open {
			return -1, nil, errors.New("the broker has ended the consumer")
		}
		if value, is := delivery.Headers["x-stream-filter-value"].(string); is {
			filter = append(filter, value)
		}
		return offsetOf(delivery), filter, nil
	}
}

func offsetOf(delivery amqp.Delivery) int64 {
	number, _ := delivery.Headers["x-stream-offset"].(int64)
	return number
}

// How long to wait for another message before the log is taken to be read.
func patience(offset, newest int64) time.Duration {
	switch {
	case newest < 0 || offset < newest:
		return silent
	case offset > newest+maxChunk:
		return 0
	default:
		return quiet
	}
}

func run(interrupted context.Context, url, workspace string, prompts []string) (string, error) {
	b, err := newBroker(url)
	if err != nil {
		return "", err
	}
	defer b.close()
	stopReason := ""
	for _, prompt := range prompts {
		stopReason, err = runTurn(interrupted, b, workspace, prompt)
		if err != nil || stopReason != "end_turn" {
			break
		}
	}
	return stopReason, err
}

func main() {
	if len(os.Args) < 3 {
		say("usage: producer WORKSPACE PROMPT [PROMPT…]\n       producer --tail TURN_ID [WORKSPACE]")
		os.Exit(2)
	}
	url := os.Getenv("AMQP_URL")
	if url == "" {
		url = "amqp://guest:guest@127.0.0.1:5672/%2f"
	}
	var stopReason string
	var err error
	if os.Args[1] == "--tail" {
		workspace := ""
		if len(os.Args) > 3 {
			workspace = os.Args[3]
		}
		stopReason, err = tail(url, os.Args[2], workspace)
	} else {
		interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		go func() {
			<-interrupted.Done()
			stop() // a second one ends the program
		}()
		stopReason, err = run(interrupted, url, os.Args[1], os.Args[2:])
	}
	if err != nil {
		say("can't go on: %v", err)
		os.Exit(1)
	}
	status, known := exitStatus[stopReason]
	if !known {
		status = 1
	}
	os.Exit(status)
}
