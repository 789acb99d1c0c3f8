package codexturns

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	replyTo           = "amq.rabbitmq.reply-to"
	replyPause        = 30 * time.Second
	questionPause     = 3 * time.Second
	defaultAnswerTime = 15 * time.Second
)

// The values of Description.State; a newer worker may know more.
const (
	StateUnknown = "unknown"
	StateWaiting = "waiting"
	StateRunning = "running"
	StateEnded   = "ended"
)

// Description is where a turn is.
type Description struct {
	TurnID    string `json:"turn_id"`
	Workspace string `json:"workspace"`
	State     string `json:"state"`
	// Unread counts the turns that the broker has and the sequencer has not read; an unknown turn may be among them.
	Unread int `json:"unread,omitempty"`
	// Place of a waiting turn in its workspace's line, from 1.
	Place int `json:"place,omitempty"`
	// Paused: an operator has paused the workspace of a waiting turn.
	Paused bool `json:"paused,omitempty"`
	// Attempt of a running turn, and when it started.
	Attempt int       `json:"attempt,omitempty"`
	Since   time.Time `json:"since,omitempty"`
	// End of a turn that has ended, and its error, if it has one.
	End   *MessageEnd  `json:"end,omitempty"`
	Error *ErrorDetail `json:"error,omitempty"`
}

// Describe asks the workers where a turn is. The workspace is required. The error is ErrNoAnswer if there was no answer when the
// context ends, or after 15 seconds if it has no deadline: no worker is connected, or they are older than the question.
func (c *Client) Describe(ctx context.Context, turnID, workspace string) (*Description, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultAnswerTime)
		defer cancel()
	}
	question := mustEncode(map[string]string{"action": "describe", "turn_id": turnID, "workspace": workspace})
	message := amqp.Publishing{CorrelationId: NewTurnID(), ReplyTo: replyTo, Body: question}
	answer, err := c.ask(ctx, c.names.Control, "", message, func(int) time.Duration { return questionPause })
	if errors.Is(err, context.DeadlineExceeded) {
		message := "no worker has answered: none is connected, or the active sequencer is of an older version"
		return nil, &brokerError{[]error{ErrNoAnswer}, message, err}
	} else if err != nil {
		return nil, err
	}
	var description Description
	if err := json.Unmarshal(answer.Body, &description); err != nil {
		return nil, &brokerError{[]error{ErrNoAnswer}, "the answer can't be read: " + err.Error(), err}
	}
	return &description, nil
}

// RunByReply is Run without a queue and bindings: only the end of the turn comes, as a reply. Workers older than replies send
// no reply; then it waits until the context ends.
func (c *Client) RunByReply(ctx context.Context, prompt, workspace string, options *Request) (*Answer, error) {
	request, err := encode(prompt, workspace, options)
	if err != nil {
		return nil, err
	}
	message := amqp.Publishing{
		MessageId: request.turnID, CorrelationId: request.turnID, ReplyTo: replyTo, Body: request.body,
	}
	reply, err := c.ask(ctx, c.names.Requests, requestKey, message, replyPauseAfter)
	if err != nil {
		if ctx.Err() != nil && !request.keepRunning {
			c.cancelAbandoned(request)
		}
		return nil, err
	}
	return answerOf(request, reply)
}

func (c *Client) cancelAbandoned(request *encoded) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveAfter)
	defer cancel()
	if err := c.Cancel(ctx, request.turnID, request.workspace); err != nil {
		c.options.OnStatus("the turn was not cancelled: " + err.Error())
	}
}

func replyPauseAfter(sent int) time.Duration {
	pause := replyPause
	for ; sent > 1 && pause < askAgainAtMost; sent-- {
		pause *= 2
	}
	if pause > askAgainAtMost {
		pause = askAgainAtMost
	}
	return pause
}

// answerOf reads a reply: a MessageEnd, with what the error event says in the headers.
func answerOf(request *encoded, reply amqp.Delivery) (*Answer, error) {
	end, is := ParseEvent(reply.Body).(*MessageEnd)
	if !is || end.TurnID != request.turnID {
		return nil, &brokerError{[]error{ErrNoAnswer}, "the reply is not the end of the turn", nil}
	}
	reader := TurnReader{TurnID: request.turnID, End: end}
	if code, is := reply.Headers["x-error-code"].(string); is {
		detail := ErrorDetail{Code: code}
		detail.Reason, _ = reply.Headers["x-error-reason"].(string)
		detail.Message, _ = reply.Headers["x-error-message"].(string)
		detail.Retryable, _ = reply.Headers["x-error-retryable"].(bool)
		reader.Error = &detail
	}
	return reader.Answer()
}

// ask publishes a message on the channel that gets its reply, again after a lost connection and after each pause, until the
// first reply with its correlation id.
func (c *Client) ask(
	ctx context.Context, exchange, key string, message amqp.Publishing, pauseAfter func(sent int) time.Duration,
) (amqp.Delivery, error) {
	replies := make(chan amqp.Delivery, 1)
	c.lock.Lock()
	if c.questions[message.CorrelationId] != nil {
		c.lock.Unlock()
		return amqp.Delivery{}, errBeingRead(message.CorrelationId)
	}
	c.questions[message.CorrelationId] = replies
	c.lock.Unlock()
	defer func() {
		c.lock.Lock()
		defer c.lock.Unlock()
		delete(c.questions, message.CorrelationId)
	}()
	for sent := 1; ; sent++ {
		var asked *link
		err := c.untilDone(ctx, func(link *link) error {
			asked = link
			return link.asking.publish(ctx, exchange, key, message)
		})
		if err != nil && !(errors.Is(err, ErrNoWorker) && exchange == c.names.Control) {
			return amqp.Delivery{}, err
		}
		timer := time.NewTimer(pauseAfter(sent))
		select {
		case reply := <-replies:
			timer.Stop()
			return reply, nil
		case <-timer.C:
		case <-asked.lost:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return amqp.Delivery{}, ctx.Err()
		case <-c.done:
			timer.Stop()
			return amqp.Delivery{}, ErrClosed
		}
	}
}

func (c *Client) dispatchReplies(link *link) {
	for {
		select {
		case reply := <-link.asking.replies:
			c.lock.Lock()
			question := c.questions[reply.CorrelationId]
			c.lock.Unlock()
			select {
			case question <- reply:
			default: // a duplicate, or not awaited
			}
		case <-link.lost:
			return
		}
	}
}
