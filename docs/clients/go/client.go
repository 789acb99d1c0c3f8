// Package codexturns sends turns to codex-turn-worker over RabbitMQ, and reads their answers as they come: many at a time over
// one connection and one queue.
package codexturns

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	requestKey         = "turn"
	cancelPause        = 5 * time.Second
	unheardPause       = 2 * time.Second
	askAgain           = 5 * time.Second
	askAgainAtMost     = 5 * time.Minute
	reconnectPause     = 200 * time.Millisecond
	reconnectAtMost    = 10 * time.Second
	refusalsAtMost     = 5
	leaveAfter         = 5 * time.Second
	tick               = 500 * time.Millisecond
	defaultLimit       = 10_000
	defaultPrefetch    = 200
	defaultQueueExpiry = 10 * time.Minute
)

// Options of a client; the zero value has the defaults.
type Options struct {
	// Prefix is the workers' setting TURN_WORKER_PREFIX; "codex" by default.
	Prefix string
	// Names of the workers' exchanges, if they don't follow from the prefix.
	Names *Names
	// Queue is the name of the queue for events. By default it is the user's name, a dot and a UUID, and the queue is deleted
	// when the client is closed. A queue with a name of yours is kept: events wait in it while the process is down.
	Queue string
	// QueueLifetime is how long the broker keeps a queue that is not read; 10 minutes by default.
	QueueLifetime time.Duration
	// Prefetch is how many events may be in flight to this client; 200 by default.
	Prefetch int
	// BufferLimit is how many events of a turn are kept for a reader that is slower than they come; 10,000 by default. Past it,
	// pieces are dropped and counted in Turn.Missed, never the end.
	BufferLimit int
	// TLS is for amqps:// URLs; nil means the system's certificate authorities.
	TLS *tls.Config
	// OnStatus gets a line of text when the connection is lost and back, and when no worker hears a cancel.
	OnStatus func(status string)
}

// Client is a connection to the broker, for any number of turns at a time, from any goroutine.
//
// It reconnects by itself, and sends again what may not have arrived: a turn runs once, however often it is sent.
type Client struct {
	url     string
	options Options
	names   Names
	done    chan struct{} // closed when the client is
	reading sync.Mutex    // one declares the queue at a time

	lock        sync.Mutex
	isClosed    bool
	link        *link         // nil while it is lost
	linkChanged chan struct{} // closed when link changes
	turns       map[string]*Turn
	leaving     map[*Turn]chan struct{}       // closed when their cancel is sent
	questions   map[string]chan amqp.Delivery // by correlation id
	queue       string
	wantsToRead bool
	readsOn     *link
	stopReading func()
}

// Connect connects; later connections come by themselves. The error is ErrBrokerUnavailable, or the context's.
//
// The URL is amqp://user:password@host:5672/vhost, or amqps://…; %2f is the virtual host "/".
func Connect(ctx context.Context, url string, options *Options) (*Client, error) {
	c := &Client{
		url: url, done: make(chan struct{}), linkChanged: make(chan struct{}), turns: map[string]*Turn{},
		leaving: map[*Turn]chan struct{}{}, questions: map[string]chan amqp.Delivery{},
	}
	if options != nil {
		c.options = *options
	}
	c.options.setDefaults()
	c.names = *c.options.Names
	c.queue = c.newQueue()
	first, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	c.link = first
	go c.supervise(first)
	go c.remindAll()
	return c, nil
}

func (o *Options) setDefaults() {
	if o.Prefix == "" {
		o.Prefix = "codex"
	}
	if o.Names == nil {
		names := namesOf(o.Prefix)
		o.Names = &names
	}
	if o.QueueLifetime == 0 {
		o.QueueLifetime = defaultQueueExpiry
	}
	if o.Prefetch == 0 {
		o.Prefetch = defaultPrefetch
	}
	if o.BufferLimit == 0 {
		o.BufferLimit = defaultLimit
	}
	if o.OnStatus == nil {
		o.OnStatus = func(string) {}
	}
}

// Close leaves. Turns that have not ended go on, and their readers get ErrClosed.
func (c *Client) Close() {
	c.lock.Lock()
	if c.isClosed {
		c.lock.Unlock()
		return
	}
	c.isClosed = true
	leaving := c.leaving
	c.lock.Unlock()
	for _, isSent := range leaving {
		<-isSent
	}
	c.lock.Lock()
	turns, link, stop, queue := c.turns, c.link, c.stopReading, c.queue
	c.turns, c.link = map[string]*Turn{}, nil
	c.lock.Unlock()
	close(c.done)
	for _, turn := range turns {
		turn.fail(ErrClosed)
	}
	if link == nil {
		return
	}
	if stop != nil && c.options.Queue == "" {
		stop()
		within(leaveAfter, func() { _ = link.delete(queue) })
	}
	within(leaveAfter, link.close)
}

// Submit sends a turn without reading its events. It returns the turn's id once the broker has accepted it.
func (c *Client) Submit(ctx context.Context, prompt, workspace string, options *Request) (string, error) {
	request, err := encode(prompt, workspace, options)
	if err != nil {
		return "", err
	}
	return request.turnID, c.untilDone(ctx, func(link *link) error { return c.publish(ctx, link, request) })
}

// Run sends a turn and waits for its answer. The error is a *TurnFailed unless the turn completed. If the context ends first,
// the turn is cancelled.
func (c *Client) Run(ctx context.Context, prompt, workspace string, options *Request) (*Answer, error) {
	turn, err := c.start(ctx, prompt, workspace, options, 0)
	if err != nil {
		return nil, err
	}
	return turn.Answer()
}

// Stream sends a turn with events that are to be read. It returns once the broker has accepted it. If the context ends before the
// turn does, the turn is cancelled.
func (c *Client) Stream(ctx context.Context, prompt, workspace string, options *Request) (*Turn, error) {
	return c.start(ctx, prompt, workspace, options, c.options.BufferLimit)
}

// Cancel cancels a turn that anyone sent; if the workspace is empty, in all of them. The error is ErrNoWorker if no worker
// hears it. A worker that is not connected at the moment misses it; Turn.Cancel repeats it until the end.
func (c *Client) Cancel(ctx context.Context, turnID, workspace string) error {
	return c.untilDone(ctx, func(link *link) error { return c.publishCancel(ctx, link, turnID, workspace) })
}

// --- turns

func (c *Client) start(ctx context.Context, prompt, workspace string, options *Request, limit int) (*Turn, error) {
	request, err := encode(prompt, workspace, options)
	if err != nil {
		return nil, err
	}
	turn := newTurn(ctx, c, request, limit)
	if err := c.register(turn); err != nil {
		return nil, err
	}
	err = c.untilDone(ctx, func(link *link) error {
		if err := c.readOn(link); err != nil {
			return err
		}
		// After a lost link, all turns are sent on the next one.
		if c.isSentOn(turn, link) {
			return nil
		}
		if request.mayBeKnown {
			c.askAgainLater(turn)
		}
		return c.send(ctx, link, turn)
	})
	if err != nil && ctx.Err() != nil {
		turn.leave(ctx.Err()) // it may have been sent
		return nil, ctx.Err()
	} else if err != nil {
		c.forget(turn)
		return nil, err
	}
	go turn.watch()
	return turn, nil
}

func (c *Client) register(turn *Turn) error {
	c.lock.Lock()
	defer c.lock.Unlock()
	if other := c.turns[turn.ID]; other != nil && other.isRead() {
		return errBeingRead(turn.ID)
	}
	if c.isClosed {
		return ErrClosed
	}
	c.turns[turn.ID] = turn
	return nil
}

func (c *Client) isSentOn(turn *Turn, link *link) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	return turn.sending.on == link
}

// send binds before it publishes: events that no queue is bound for are gone.
func (c *Client) send(ctx context.Context, link *link, turn *Turn) error {
	c.lock.Lock()
	turn.sending.on = link
	queue := c.queue
	c.lock.Unlock()
	if err := link.bind(queue, c.names.Events, turn.ID); err != nil {
		return err
	}
	return c.publish(ctx, link, turn.request)
}

func (c *Client) publish(ctx context.Context, link *link, request *encoded) error {
	return link.publish(ctx, c.names.Requests, requestKey, amqp.Publishing{MessageId: request.turnID, Body: request.body})
}

func (c *Client) publishCancel(ctx context.Context, link *link, turnID, workspace string) error {
	control := map[string]string{"action": "cancel", "turn_id": turnID}
	if workspace != "" && workspace[0] != '/' { // a path means something to a worker only
		control["workspace"] = workspace
	}
	return link.publish(ctx, c.names.Control, "", amqp.Publishing{Body: mustEncode(control)})
}

func (c *Client) cancelTurn(turn *Turn) {
	ended := turn.hasEnded()
	c.lock.Lock()
	link := turn.sending.on
	turn.sending.isCancelling = true
	turn.sending.cancelAt = time.Now().Add(cancelPause)
	c.lock.Unlock()
	if ended || link == nil { // it is not sent yet, and the cancel follows it
		return
	}
	err := c.publishCancel(context.Background(), link, turn.ID, turn.request.workspace)
	var again time.Duration
	switch {
	case err == nil:
		return
	case errors.Is(err, ErrNoWorker):
		again = unheardPause
		c.options.OnStatus("no worker is connected, so the cancel is repeated until one is")
	case !isLinkLost(err):
		again = cancelPause
		c.options.OnStatus(err.Error())
	}
	c.lock.Lock()
	turn.sending.cancelAt = time.Now().Add(again)
	c.lock.Unlock()
}

// leave cancels a turn that has no reader any more, and goes on with it in the background until it has ended.
func (c *Client) leave(turn *Turn) {
	c.lock.Lock()
	if turn.request.keepRunning || c.isClosed || turn.sending.on == nil {
		c.lock.Unlock()
		c.forget(turn)
		return
	}
	isSent := make(chan struct{})
	c.leaving[turn] = isSent
	c.lock.Unlock()
	go func() {
		within(leaveAfter, func() { c.cancelTurn(turn) })
		close(isSent)
		c.lock.Lock()
		defer c.lock.Unlock()
		if !c.isClosed {
			delete(c.leaving, turn)
		}
	}()
}

func (c *Client) forget(turn *Turn) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.turns[turn.ID] != turn {
		return
	}
	delete(c.turns, turn.ID)
	if link, queue := turn.sending.on, c.queue; link != nil && !link.isLost() {
		// Unless it is sent again meanwhile, and bound again.
		isUnused := func() bool { return !c.isKnown(turn.ID) }
		go link.unbind(queue, c.names.Events, turn.ID, isUnused)
	}
}

func (c *Client) isKnown(turnID string) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.turns[turnID] != nil
}

func (c *Client) fail(turn *Turn, err error) {
	turn.fail(err)
	c.forget(turn)
}

func (c *Client) deliver(body []byte) {
	event := ParseEvent(body)
	if event == nil {
		return
	}
	c.lock.Lock()
	turn := c.turns[event.Common().TurnID]
	c.lock.Unlock()
	if turn == nil || !turn.deliver(event) {
		return
	}
	c.lock.Lock()
	turn.sending.askAgain = false
	c.lock.Unlock()
	if turn.hasEnded() {
		c.forget(turn)
	}
}

// --- connections

func (c *Client) open(ctx context.Context) (*link, error) {
	link, err := openLink(ctx, c.url, "codex-turn-client", c.options.TLS)
	if err == nil {
		go c.dispatchReplies(link)
	}
	return link, err
}

// untilDone works over as many connections as that takes.
func (c *Client) untilDone(ctx context.Context, work func(*link) error) error {
	for {
		link, err := c.connected(ctx)
		if err != nil {
			return err
		}
		if err = work(link); !isLinkLost(err) {
			return err
		}
	}
}

func (c *Client) connected(ctx context.Context) (*link, error) {
	for {
		c.lock.Lock()
		link, changed := c.link, c.linkChanged
		c.lock.Unlock()
		if link != nil && !link.isLost() {
			return link, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.done:
			return nil, ErrClosed
		}
	}
}

func (c *Client) setLink(link *link) (isClosed bool) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.isClosed {
		return true
	}
	c.link = link
	close(c.linkChanged)
	c.linkChanged = make(chan struct{})
	return false
}

// readOn has the queue read on this link.
func (c *Client) readOn(link *link) error {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.lock.Lock()
	isRead, queue := c.readsOn == link, c.queue
	c.wantsToRead = true
	c.lock.Unlock()
	if isRead {
		return nil
	}
	if err := link.declare(queue, c.options.QueueLifetime); err != nil {
		return err
	}
	return c.consume(link, queue)
}

func (c *Client) consume(link *link, queue string) error {
	deliveries, stop, err := link.consume(queue, c.options.Prefetch, nil)
	if err != nil {
		return err
	}
	c.lock.Lock()
	c.readsOn, c.stopReading = link, stop
	c.lock.Unlock()
	go func() {
		for delivery := range deliveries {
			c.deliver(delivery.Body)
			_ = delivery.Ack(false) // a lost link is noticed elsewhere
		}
	}()
	return nil
}

func (c *Client) supervise(link *link) {
	for link != nil {
		select {
		case <-c.done:
			return
		case <-link.lost:
		}
		if c.setLink(nil) {
			return
		}
		c.options.OnStatus("lost the broker: " + link.reason)
		link.close()
		if link = c.reconnect(); link == nil {
			return
		} else if c.setLink(link) {
			link.close()
			return
		}
		c.options.OnStatus("connected again")
	}
}

// reconnect returns nil if the client is closed meanwhile.
func (c *Client) reconnect() *link {
	pause, refusals := reconnectPause, 0
	for {
		select {
		case <-c.done:
			return nil
		case <-time.After(pause/2 + time.Duration(rand.Int63n(int64(pause/2)))):
		}
		if pause *= 2; pause > reconnectAtMost {
			pause = reconnectAtMost
		}
		link, err := c.open(context.Background())
		if err != nil {
			continue
		}
		if err = c.resume(link); err == nil {
			return link
		}
		link.close()
		if errors.Is(err, ErrBrokerRefused) { // the queue may be on a node that is down
			refusals++
			c.lock.Lock()
			c.queue = c.newQueue()
			c.lock.Unlock()
			if refusals%refusalsAtMost == 0 {
				c.eachTurn(func(turn *Turn) { c.fail(turn, err) })
			}
		}
	}
}

// resume sends all turns again before it reads on: their ends may have been missed, and come once more then.
func (c *Client) resume(link *link) error {
	c.lock.Lock()
	wanted, queue := c.wantsToRead, c.queue
	c.lock.Unlock()
	if !wanted {
		return nil
	}
	if err := link.declare(queue, c.options.QueueLifetime); err != nil {
		return err
	}
	c.eachTurn(func(turn *Turn) { c.resend(link, turn) })
	if link.isLost() {
		return &linkLost{link.reason}
	}
	return c.consume(link, queue)
}

func (c *Client) resend(link *link, turn *Turn) {
	err := c.send(context.Background(), link, turn)
	if isLinkLost(err) {
		return
	}
	if err != nil {
		c.fail(turn, err)
		return
	}
	c.askAgainLater(turn)
	c.lock.Lock()
	turn.sending.cancelAt = time.Time{}
	c.lock.Unlock()
}

// askAgainLater sends the turn again, unless an event comes before that.
func (c *Client) askAgainLater(turn *Turn) {
	c.lock.Lock()
	defer c.lock.Unlock()
	turn.sending.askAgain, turn.sending.askPause = true, askAgain
	turn.sending.askAgainAt = time.Now().Add(askAgain)
}

// remindAll repeats cancels, and requests that were not the first of their turn and got no event: they are dropped as
// duplicates while the workers have not yet noted the turn's end, which may have been published already.
func (c *Client) remindAll() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-ticker.C:
			c.eachTurn(c.remind)
		}
	}
}

func (c *Client) remind(turn *Turn) {
	now := time.Now()
	c.lock.Lock()
	s := &turn.sending
	link := s.on
	isLost := link == nil || link.isLost()
	cancels := !isLost && s.isCancelling && !now.Before(s.cancelAt)
	asks := !isLost && s.askAgain && !now.Before(s.askAgainAt)
	if asks {
		if s.askPause *= 2; s.askPause > askAgainAtMost {
			s.askPause = askAgainAtMost
		}
		s.askAgainAt = now.Add(s.askPause)
	}
	c.lock.Unlock()
	if cancels {
		c.cancelTurn(turn)
	}
	if asks {
		if err := c.publish(context.Background(), link, turn.request); err != nil && !isLinkLost(err) {
			c.fail(turn, err)
		}
	}
}

// eachTurn works on all turns, at the same time.
func (c *Client) eachTurn(work func(*Turn)) {
	c.lock.Lock()
	var all sync.WaitGroup
	for _, turn := range c.turns {
		all.Add(1)
		go func(turn *Turn) {
			defer all.Done()
			work(turn)
		}(turn)
	}
	c.lock.Unlock()
	all.Wait()
}

func (c *Client) newQueue() string {
	if c.options.Queue != "" {
		return c.options.Queue
	}
	user := "guest"
	if uri, err := amqp.ParseURI(c.url); err == nil && uri.Username != "" {
		user = uri.Username
	}
	return fmt.Sprintf("%s.%s", user, NewTurnID())
}

// within waits for the work, but no longer than that.
func within(most time.Duration, work func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

func mustEncode(value any) []byte {
	body, err := json.Marshal(value)
	if err != nil {
		panic(err) // only maps of strings come here
	}
	return body
}
