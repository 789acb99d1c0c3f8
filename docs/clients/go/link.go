package codexturns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	connectTimeout = 30 * time.Second
	heartbeat      = 10 * time.Second
)

// Names are those of the workers' objects on the broker.
type Names struct{ Requests, Events, Control, Log string }

func namesOf(prefix string) Names {
	return Names{prefix + ".requests", prefix + ".events", prefix + ".control", prefix + ".events.log"}
}

// link is one connection to the broker. It is never repaired: when it is lost, another takes its place.
type link struct {
	connection *amqp.Connection
	lost       chan struct{} // closed when it is; from then on everything returns *linkLost
	reason     string        // valid once it is lost
	loseOnce   sync.Once

	publishing, asking publisher
	setupLock          sync.Mutex
	setupChannel       *amqp.Channel
}

func openLink(ctx context.Context, url, name string, tlsConfig *tls.Config) (*link, error) {
	type dialed struct {
		connection *amqp.Connection
		err        error
	}
	done := make(chan dialed, 1)
	go func() {
		connection, err := amqp.DialConfig(url, amqp.Config{
			Heartbeat: heartbeat, Locale: "en_US", TLSClientConfig: tlsConfig, Dial: amqp.DefaultDial(connectTimeout),
			Properties: amqp.Table{"connection_name": name, "product": "codexturns for Go"},
		})
		done <- dialed{connection, err}
	}()
	select {
	case <-ctx.Done():
		go func() {
			if late := <-done; late.err == nil {
				late.connection.Close()
			}
		}()
		return nil, ctx.Err()
	case dialed := <-done:
		if err := dialed.err; err != nil {
			message := "the broker can't be reached: " + err.Error()
			return nil, &brokerError{[]error{ErrBrokerUnavailable}, message, err}
		}
		l := &link{connection: dialed.connection, lost: make(chan struct{})}
		l.publishing.link, l.asking.link = l, l
		l.asking.replies = make(chan amqp.Delivery)
		closed := l.connection.NotifyClose(make(chan *amqp.Error, 1))
		go func() {
			reason := "the connection is closed"
			if err := <-closed; err != nil {
				reason = err.Error()
			}
			l.lose(reason)
		}()
		return l, nil
	}
}

// Errors don't matter: what is closed is needed no more.
func (l *link) close() {
	l.lose("closed")
	_ = l.connection.Close()
}

func (l *link) lose(reason string) {
	l.loseOnce.Do(func() {
		l.reason = reason
		close(l.lost)
	})
}

func (l *link) isLost() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

// call does an operation of the AMQP library, and returns *linkLost or an error that is ErrBrokerRefused.
func (l *link) call(what string, operation func() error) error {
	if l.isLost() {
		return &linkLost{l.reason}
	}
	err := operation()
	var broker *amqp.Error
	switch {
	case err == nil || errors.Is(err, ErrBrokerRefused) || isLinkLost(err) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &broker) && broker.Server && broker.Recover: // it has closed the channel, not the connection
		kinds := []error{}
		if broker.Code == amqp.NotFound {
			kinds = append(kinds, errNotFound)
		}
		return refused(fmt.Sprintf("can't %s: %s", what, broker.Reason), err, kinds...)
	}
	l.lose(err.Error())
	return &linkLost{l.reason}
}

var errNotFound = errors.New("there is no queue or exchange of that name")

// publish returns when the broker has it. The error is ErrNoWorker if no queue takes it.
func (l *link) publish(ctx context.Context, exchange, key string, message amqp.Publishing) error {
	return l.publishing.publish(ctx, exchange, key, message)
}

// declare makes a queue for events. It outlives the connection: events that come meanwhile wait in it.
func (l *link) declare(queue string, lifetime time.Duration) error {
	return l.setUp("declare "+queue, func(channel *amqp.Channel) error {
		_, err := channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-expires": lifetime.Milliseconds()})
		return err
	})
}

func (l *link) delete(queue string) error {
	return l.setUp("delete "+queue, func(channel *amqp.Channel) error {
		_, err := channel.QueueDelete(queue, false, false, false)
		return err
	})
}

func (l *link) bind(queue, exchange, key string) error {
	return l.setUp("bind to "+exchange, func(channel *amqp.Channel) error {
		return channel.QueueBind(queue, key, exchange, false, nil)
	})
}

func (l *link) unbind(queue, exchange, key string, isUnused func() bool) error {
	return l.setUp("unbind from "+exchange, func(channel *amqp.Channel) error {
		if !isUnused() {
			return nil
		}
		return channel.QueueUnbind(queue, key, exchange, nil)
	})
}

// One at a time, so that a refusal, which closes the channel, is that of the operation that caused it.
func (l *link) setUp(what string, operation func(*amqp.Channel) error) error {
	l.setupLock.Lock()
	defer l.setupLock.Unlock()
	return l.call(what, func() (err error) {
		if l.setupChannel == nil || l.setupChannel.IsClosed() {
			if l.setupChannel, err = l.connection.Channel(); err != nil {
				return err
			}
		}
		return operation(l.setupChannel)
	})
}

// consume reads a queue with acks. The deliveries end with the link, or when stop is called; if the broker ends the consumer,
// the link is lost. Messages are never rejected: streams don't take that.
func (l *link) consume(queue string, prefetch int, arguments amqp.Table) (deliveries <-chan amqp.Delivery, stop func(), err error) {
	stopped := make(chan struct{})
	handed := make(chan amqp.Delivery)
	err = l.call("consume "+queue, func() error {
		channel, err := l.connection.Channel()
		if err != nil {
			return err
		}
		closed := channel.NotifyClose(make(chan *amqp.Error, 1))
		if err := channel.Qos(prefetch, 0, false); err != nil {
			return err
		}
		source, err := channel.Consume(queue, "", false, false, false, false, arguments)
		if err != nil {
			return err
		}
		go func() {
			defer close(handed)
			for delivery := range source {
				select {
				case handed <- delivery:
				case <-stopped:
				case <-l.lost:
				}
			}
			select {
			case <-stopped:
			default:
				l.loseConsumer(closed)
			}
		}()
		stop = func() {
			close(stopped)
			go channel.Close() // which waits for the broker
		}
		return nil
	})
	return handed, stop, err
}

// A connection reports why it closes after its channels have closed.
func (l *link) loseConsumer(closed <-chan *amqp.Error) {
	reason := "the broker has ended the consumer"
	select {
	case err := <-closed:
		if err != nil {
			reason = err.Error()
		}
	default: // the queue was deleted
	}
	l.lose(reason)
}

// publisher is a channel with confirms, opened again after a refusal has closed it.
type publisher struct {
	link    *link
	lock    sync.Mutex // one publish at a time
	channel *amqp.Channel
	pending *pending
	// If it is set, the channel also consumes the broker's direct replies, and they come here.
	replies chan amqp.Delivery
}

// pending are the messages that the broker has not confirmed yet.
type pending struct {
	lock     sync.Mutex
	waiting  map[uint64]waiter
	returned map[string]bool // message ids
	end      error           // once the channel is closed
}

type waiter struct {
	messageID string
	done      chan error // nil: confirmed
}

var errNacked = errors.New("nacked")

func (p *publisher) publish(ctx context.Context, exchange, key string, message amqp.Publishing) error {
	message.DeliveryMode, message.ContentType, message.Timestamp = amqp.Persistent, "application/json", time.Now()
	if message.MessageId == "" {
		message.MessageId = NewTurnID()
	}
	what := "publish to " + exchange
	return p.link.call(what, func() error {
		done, err := p.send(exchange, key, message)
		if err != nil {
			return err
		}
		select {
		case err = <-done:
		case <-p.link.lost:
			return &linkLost{p.link.reason}
		case <-ctx.Done():
			return ctx.Err()
		}
		switch err {
		case ErrNoWorker:
			return refused("can't "+what+": no queue is bound to it", nil, ErrNoWorker)
		case errNacked:
			return refused("can't "+what+": the broker has refused it", nil)
		}
		return err
	})
}

func (p *publisher) send(exchange, key string, message amqp.Publishing) (<-chan error, error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.channel == nil || p.channel.IsClosed() {
		if err := p.open(); err != nil {
			return nil, err
		}
	}
	done := make(chan error, 1)
	tag := p.channel.GetNextPublishSeqNo()
	if err := p.pending.add(tag, waiter{message.MessageId, done}); err != nil {
		return nil, err
	}
	err := p.channel.PublishWithContext(context.Background(), exchange, key, true, false, message)
	if err != nil {
		p.pending.remove(tag)
	}
	return done, err
}

func (p *publisher) open() error {
	channel, err := p.link.connection.Channel()
	if err != nil {
		return err
	}
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	// Without a buffer, a returned message has been taken before its confirm comes.
	returns := channel.NotifyReturn(make(chan amqp.Return))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation))
	if err := channel.Confirm(false); err != nil {
		return err
	}
	pending := &pending{waiting: map[uint64]waiter{}, returned: map[string]bool{}}
	go pending.settle(confirms, returns, closed)
	if p.replies != nil {
		replies, err := channel.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
		if err != nil {
			return err
		}
		go func() {
			for reply := range replies {
				select {
				case p.replies <- reply:
				case <-p.link.lost:
				}
			}
		}()
	}
	p.channel, p.pending = channel, pending
	return nil
}

func (p *pending) add(tag uint64, waiter waiter) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.end != nil {
		return p.end
	}
	p.waiting[tag] = waiter
	return nil
}

func (p *pending) remove(tag uint64) {
	p.lock.Lock()
	defer p.lock.Unlock()
	delete(p.waiting, tag)
}

func (p *pending) settle(confirms <-chan amqp.Confirmation, returns <-chan amqp.Return, closed <-chan *amqp.Error) {
	for {
		select {
		case returned, open := <-returns:
			if !open {
				returns = nil
				continue
			}
			p.lock.Lock()
			p.returned[returned.MessageId] = true
			p.lock.Unlock()
		case confirm, open := <-confirms:
			if !open {
				p.fail(closed)
				return
			}
			p.lock.Lock()
			p.confirm(confirm)
			p.lock.Unlock()
		}
	}
}

func (p *pending) confirm(confirm amqp.Confirmation) {
	waiter, known := p.waiting[confirm.DeliveryTag]
	if !known {
		return
	}
	delete(p.waiting, confirm.DeliveryTag)
	var outcome error
	switch {
	case p.returned[waiter.messageID]:
		delete(p.returned, waiter.messageID)
		outcome = ErrNoWorker
	case !confirm.Ack:
		outcome = errNacked
	}
	waiter.done <- outcome
}

// fail reports why the channel was closed to those who wait.
func (p *pending) fail(closed <-chan *amqp.Error) {
	var reason error = amqp.ErrClosed
	if err := <-closed; err != nil {
		reason = err
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	p.end = reason
	for _, waiter := range p.waiting {
		waiter.done <- reason
	}
	p.waiting = nil
}
