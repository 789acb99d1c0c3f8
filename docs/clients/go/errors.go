package codexturns

import "errors"

// What an error is, by errors.Is.
var (
	// ErrBrokerUnavailable: the broker can't be reached. Returned by Connect only; later connections are retried.
	ErrBrokerUnavailable = errors.New("the broker can't be reached")
	// ErrBrokerRefused: the broker refuses an operation: a missing right, exchange or virtual host.
	ErrBrokerRefused = errors.New("the broker refuses it")
	// ErrNoWorker: no queue takes it. For a turn: no worker has ever run with this prefix on this virtual host.
	ErrNoWorker = errors.New("no worker")
	// ErrNoEventLog: no worker has ever run with TURN_WORKER_EVENT_LOG=on.
	ErrNoEventLog = errors.New("there is no event log")
	// ErrNotInLog: the turn is not in the event log.
	ErrNotInLog = errors.New("the turn is not in the event log")
	// ErrNoAnswer: no worker has answered a question.
	ErrNoAnswer = errors.New("no worker has answered")
	// ErrClosed: the client was closed before the turn ended. The turn goes on.
	ErrClosed = errors.New("the client is closed")
	// ErrInvalid: the request can't be encoded, or is larger than any worker accepts.
	ErrInvalid = errors.New("the request is invalid")

	// ErrRejected: a *TurnFailed for a request that was not accepted, or not started in time; it was not run.
	ErrRejected = errors.New("the turn was rejected")
	// ErrTimedOut: a *TurnFailed that ran, or was silent, for too long.
	ErrTimedOut = errors.New("the turn timed out")
	// ErrCancelled: a *TurnFailed that was cancelled, or interrupted by another turn.
	ErrCancelled = errors.New("the turn was cancelled")
)

// TurnFailed is a turn that ended with any stop reason but end_turn.
type TurnFailed struct {
	TurnID string
	// ErrorDetail has what happened, why, and whether the same turn, sent again under a new id, may succeed.
	ErrorDetail
	// Text is the agent's last message before that, maybe empty.
	Text string
	// End is the turn's last event.
	End *MessageEnd
}

func (e *TurnFailed) Error() string { return e.Code + ": " + e.Message }

func (e *TurnFailed) Is(target error) bool { return target == e.kind() }

func (e *TurnFailed) kind() error {
	switch {
	case e.End.StopReason == TimedOut:
		return ErrTimedOut
	case e.End.StopReason == Cancelled:
		return ErrCancelled
	case e.End.Attempt == 0:
		return ErrRejected
	}
	return nil
}

// brokerError is an error of the broker's, with all that it is.
type brokerError struct {
	is      []error
	message string
	cause   error
}

func (e *brokerError) Error() string { return e.message }

func (e *brokerError) Unwrap() error { return e.cause }

func (e *brokerError) Is(target error) bool {
	for _, kind := range e.is {
		if kind == target {
			return true
		}
	}
	return false
}

func refused(message string, cause error, kinds ...error) error {
	return &brokerError{append(kinds, ErrBrokerRefused), message, cause}
}

// linkLost: the connection is gone. What was in flight on it may have happened or not.
type linkLost struct{ reason string }

func (e *linkLost) Error() string { return e.reason }

func isLinkLost(err error) bool {
	var lost *linkLost
	return errors.As(err, &lost)
}
