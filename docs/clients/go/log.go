package codexturns

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	logPrefetch       = 200
	maxChunk          = 65_535 // a chunk of a stream, which is delivered whole, has no more messages
	logReconnectPause = time.Second
	// After the newest message: what is in one chunk with it comes at once.
	quiet = time.Second
	// No message comes: the log is empty, or older than what is asked for.
	silent = 10 * time.Second
)

// TailOptions of Client.Tail; the zero value has the defaults.
type TailOptions struct {
	// Workspace of the turn; by default that of the first event.
	Workspace string
	// Since reads only what is younger, which is faster; 0 means the whole log.
	Since time.Duration
	// Wait for a turn that is not in the log yet, in place of ErrNotInLog.
	Wait bool
}

// Tail is a turn that is read from the event log.
type Tail struct {
	url, queue string
	tls        *tls.Config
	options    TailOptions
	onStatus   func(string)
	ctx        context.Context
	reader     *TurnReader
	events     chan Event
	done       chan struct{}
	err        error // valid once done is closed

	next       int64 // the first message that was not read; -1 before the first one
	isFound    bool
	isCaughtUp bool
}

// Tail reads a turn from the event log, from its beginning, and follows it to its end, on a connection of its own, until the
// context ends. Read its Events, or call Answer.
func (c *Client) Tail(ctx context.Context, turnID string, options *TailOptions) *Tail {
	t := &Tail{
		url: c.url, queue: c.names.Log, tls: c.options.TLS, onStatus: c.options.OnStatus, ctx: ctx,
		events: make(chan Event), done: make(chan struct{}), next: -1,
	}
	if options != nil {
		t.options = *options
	}
	t.reader = NewTurnReader(turnID, t.options.Workspace)
	go func() {
		t.err = t.read()
		close(t.done)
		close(t.events)
	}()
	return t
}

// Events returns the turn's events, each once, in order. The channel is closed after the last one, or when reading fails: then
// see Err. A reader that stops before that ends the context.
func (t *Tail) Events() <-chan Event { return t.events }

// Err returns why reading ended before the end of the turn: ErrNotInLog, ErrNoEventLog, ErrBrokerUnavailable, or the
// context's; nil at the end of the turn. It waits for the channel to be closed.
func (t *Tail) Err() error {
	<-t.done
	return t.err
}

// Answer drops the events that were not read yet and returns what the turn came to, as Turn.Answer does.
func (t *Tail) Answer() (*Answer, error) {
	for range t.events {
	}
	if err := t.Err(); err != nil {
		return nil, err
	}
	return t.reader.Answer()
}

func (t *Tail) read() error {
	isLost := false
	for t.reader.End == nil {
		err := t.readOnce(&isLost)
		if err == nil || !isLinkLost(err) && !errors.Is(err, ErrBrokerUnavailable) {
			if err != nil {
				return err
			}
			continue
		}
		if t.next < 0 {
			return &brokerError{[]error{ErrBrokerUnavailable}, err.Error(), err}
		}
		if !isLost {
			t.onStatus("lost the broker: " + err.Error())
		}
		isLost = true
		select {
		case <-time.After(logReconnectPause):
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
	return nil
}

// readOnce reads over one connection. It never rejects what was delivered, and ignores errors of closing: see "The event log"
// in docs/EVENTS.md.
func (t *Tail) readOnce(isLost *bool) error {
	link, err := openLink(t.ctx, t.url, "codex-turn-client tail", t.tls)
	if err != nil {
		return err
	}
	defer link.close()
	newest, filter, err := t.newest(link)
	if err != nil {
		return err
	}
	deliveries, err := t.consume(link, filter)
	if err != nil {
		return err
	}
	patience := silent
	if newest < 0 {
		patience = quiet
	}
	for t.reader.End == nil {
		var caughtUp <-chan time.Time
		if !t.isCaughtUp {
			caughtUp = time.After(patience)
		}
		select {
		case <-t.ctx.Done():
			return t.ctx.Err()
		case <-caughtUp:
			t.isCaughtUp = true
			if !t.isFound && !t.options.Wait {
				return &brokerError{is: []error{ErrNotInLog}, message: "the event log has nothing of turn " + t.reader.TurnID +
					": it has not started, is older than the log, or never was"}
			}
		case delivery, isOpen := <-deliveries:
			if !isOpen {
				<-link.lost
				return &linkLost{link.reason}
			}
			*isLost = false
			at := offsetOf(delivery)
			patience = patienceAfter(at, newest)
			_ = delivery.Ack(false)
			if at < t.next { // a chunk is delivered whole
				continue
			}
			t.next = at + 1
			if err := t.take(delivery.Body); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Tail) take(body []byte) error {
	event := ParseEvent(body)
	if event == nil {
		return nil
	}
	taken := t.reader.Take(event)
	if taken == nil {
		return nil
	}
	t.isFound = true
	events := []Event{event}
	if taken.Restarted {
		events = []Event{&Restarted{*event.Common()}, event}
	}
	for _, event := range events {
		select {
		case t.events <- event:
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
	return nil
}

// newest returns the offset of the log's newest message, or -1 if the log is empty, and a filter that lets it through, too: a
// filtered stream is silent without a match, but once its newest message has come, everything has.
func (t *Tail) newest(link *link) (int64, []any, error) {
	filter := []any{t.reader.TurnID}
	deliveries, stop, err := link.consume(t.queue, logPrefetch, amqp.Table{"x-stream-offset": "last"})
	if err != nil {
		return -1, nil, t.refusal(err)
	}
	defer stop()
	select {
	case <-t.ctx.Done():
		return -1, nil, t.ctx.Err()
	case <-time.After(silent):
		return -1, filter, nil
	case delivery, isOpen := <-deliveries:
		if !isOpen {
			<-link.lost
			return -1, nil, &linkLost{link.reason}
		}
		if value, is := delivery.Headers["x-stream-filter-value"].(string); is {
			filter = append(filter, value)
		}
		return offsetOf(delivery), filter, nil
	}
}

func (t *Tail) consume(link *link, filter []any) (<-chan amqp.Delivery, error) {
	var from any = "first"
	if t.next >= 0 {
		from = t.next
	} else if t.options.Since > 0 {
		from = time.Now().Add(-t.options.Since)
	}
	// Those without a value are of workers that set no value yet.
	arguments := amqp.Table{"x-stream-offset": from, "x-stream-filter": filter, "x-stream-match-unfiltered": true}
	deliveries, _, err := link.consume(t.queue, logPrefetch, arguments)
	if errors.Is(err, ErrBrokerRefused) && !errors.Is(err, errNotFound) {
		// A broker that could filter, with filters not enabled.
		deliveries, _, err = link.consume(t.queue, logPrefetch, amqp.Table{"x-stream-offset": from})
	}
	return deliveries, t.refusal(err)
}

func (t *Tail) refusal(err error) error {
	if errors.Is(err, errNotFound) {
		return refused("there is no event log: "+strings.TrimSpace(err.Error()), err, ErrNoEventLog)
	}
	return err
}

func offsetOf(delivery amqp.Delivery) int64 {
	offset, _ := delivery.Headers["x-stream-offset"].(int64)
	return offset
}

// patienceAfter is how long to wait for another message before the log counts as read.
func patienceAfter(offset, newest int64) time.Duration {
	switch {
	case newest < 0 || offset < newest:
		return silent
	case offset > newest+maxChunk:
		return 0
	}
	return quiet
}
