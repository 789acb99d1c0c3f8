package codexturns

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Turn is a turn in progress, as its reader sees it.
type Turn struct {
	ID string

	client  *Client
	ctx     context.Context
	request *encoded
	sending sending // guarded by client.lock

	lock     sync.Mutex
	reader   *TurnReader
	inbox    []Event
	limit    int
	missed   int
	failure  error
	isEnded  bool          // no event comes any more
	isLeft   bool          // its reader has left
	left     chan struct{} // closed when it has
	settled  chan struct{} // closed when the turn has ended, failed or lost its reader
	woken    chan struct{}
	once     sync.Once
	delivers chan Event
}

// sending is what the client keeps of a turn.
type sending struct {
	on           *link
	isCancelling bool
	cancelAt     time.Time
	askAgain     bool
	askAgainAt   time.Time
	askPause     time.Duration
}

func newTurn(ctx context.Context, client *Client, request *encoded, limit int) *Turn {
	return &Turn{
		ID: request.turnID, client: client, ctx: ctx, request: request, limit: limit,
		reader:  NewTurnReader(request.turnID, request.workspace),
		settled: make(chan struct{}), left: make(chan struct{}), woken: make(chan struct{}, 1), delivers: make(chan Event),
	}
}

// Events returns the turn's events, each once, in order. The channel is closed after the last one, or when the turn's context
// ends: then see Answer. A reader that stops before that calls Close, or ends the context.
func (t *Turn) Events() <-chan Event {
	t.once.Do(func() { go t.pump() })
	return t.delivers
}

// Answer waits for the end. The error is a *TurnFailed unless the turn completed, or the context's.
func (t *Turn) Answer() (*Answer, error) {
	<-t.settled
	t.lock.Lock()
	defer t.lock.Unlock()
	if t.failure != nil {
		return nil, t.failure
	}
	return t.reader.Answer()
}

// Cancel asks the workers to cancel the turn, again and again until it has ended. Read on: its end still comes.
func (t *Turn) Cancel() { t.client.cancelTurn(t) }

// Close leaves the turn: one that has not ended is cancelled, unless its request says KeepRunning.
func (t *Turn) Close() { t.leave(context.Canceled) }

// Missed counts the turn's events that are known to have been lost, or were dropped because they were read too slowly. The
// answer is complete in any case.
func (t *Turn) Missed() int {
	t.lock.Lock()
	defer t.lock.Unlock()
	return t.missed
}

// watch leaves the turn when its context ends.
func (t *Turn) watch() {
	select {
	case <-t.ctx.Done():
		t.leave(t.ctx.Err())
	case <-t.settled:
	}
}

func (t *Turn) leave(reason error) {
	t.lock.Lock()
	if t.isEnded || t.isLeft {
		t.lock.Unlock()
		return
	}
	t.isLeft = true
	t.inbox = nil
	t.failure = reason
	close(t.settled)
	close(t.left)
	t.lock.Unlock()
	t.wake()
	t.client.leave(t)
}

func (t *Turn) pump() {
	defer close(t.delivers)
	for {
		t.lock.Lock()
		var next Event
		if len(t.inbox) > 0 {
			next, t.inbox = t.inbox[0], t.inbox[1:]
		}
		isOver := t.isEnded || t.isLeft
		t.lock.Unlock()
		switch {
		case next != nil:
			select {
			case t.delivers <- next:
			case <-t.left:
				return
			}
		case isOver:
			return
		default:
			<-t.woken
		}
	}
}

func (t *Turn) wake() {
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

// deliver returns whether the event is the turn's.
func (t *Turn) deliver(event Event) (isTaken bool) {
	t.lock.Lock()
	defer t.lock.Unlock()
	if t.isEnded {
		return false
	}
	taken := t.reader.Take(event)
	if taken == nil {
		return false
	}
	t.missed += taken.Missed
	if taken.Restarted {
		t.keep(&Restarted{*event.Common()})
	}
	t.keep(event)
	if t.reader.End != nil {
		t.isEnded = true
		if !t.isLeft {
			close(t.settled)
		}
	}
	t.wake()
	return true
}

// A slow reader loses pieces, never a start, a restart, the error or the end, and delays no other reader.
func (t *Turn) keep(event Event) {
	if t.limit == 0 || t.isLeft {
		return
	}
	if len(t.inbox) >= t.limit {
		switch event.(type) {
		case *MessageStart, *Restarted, *ErrorEvent, *MessageEnd:
		default:
			t.missed++
			return
		}
	}
	t.inbox = append(t.inbox, event)
}

func (t *Turn) fail(err error) {
	t.lock.Lock()
	defer t.lock.Unlock()
	if t.isEnded {
		return
	}
	t.isEnded = true
	if !t.isLeft {
		t.failure = err
		close(t.settled)
	}
	t.wake()
}

func (t *Turn) hasEnded() bool {
	t.lock.Lock()
	defer t.lock.Unlock()
	return t.isEnded
}

func (t *Turn) isRead() bool {
	t.lock.Lock()
	defer t.lock.Unlock()
	return !t.isEnded && !t.isLeft
}

func errBeingRead(turnID string) error {
	return invalid(fmt.Sprintf("turn %s is being read already", turnID))
}
