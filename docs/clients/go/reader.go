package codexturns

import (
	"encoding/json"
	"strings"
)

// Answer is how a turn ended that completed.
type Answer struct {
	TurnID string
	// Text is the agent's last message.
	Text string
	// Structured is the answer as JSON if the request has an OutputSchema; nil if the answer is not JSON.
	Structured json.RawMessage
	// End is the turn's last event, with usage, thread id, metadata and more.
	End *MessageEnd
}

// Taken is how an event follows on what came before.
type Taken struct {
	// Restarted: a higher attempt started, and what came so far is void.
	Restarted bool
	// Missed counts the events of the attempt that never came.
	Missed int
}

// Text is one message of the agent.
type Text struct {
	ItemID string `json:"item_id"`
	Text   string `json:"text"`
}

// TurnReader reads the deliveries of one turn in the order in which they come, with duplicates and forgeries among them. It
// knows no broker. Use it from one goroutine at a time.
type TurnReader struct {
	TurnID string
	// End is nil until the turn has ended.
	End *MessageEnd
	// Error is why it did not complete, if it was published.
	Error *ErrorDetail

	workspace    string
	texts        []*joined // of the last attempt
	started      bool
	attempt, seq int
}

type joined struct {
	itemID string
	text   strings.Builder
}

// NewTurnReader takes the workspace as the request names it, by its id or an absolute path; if it is empty, the first event
// decides.
func NewTurnReader(turnID, workspace string) *TurnReader {
	return &TurnReader{TurnID: turnID, workspace: workspace}
}

// Take returns nil if the event is not this turn's, or not newer than what came before.
func (r *TurnReader) Take(event Event) *Taken {
	common := event.Common()
	if r.End != nil || common.TurnID != r.TurnID || !r.admits(common.Workspace) {
		return nil
	}
	if r.started && (common.Attempt < r.attempt || common.Attempt == r.attempt && common.Seq <= r.seq) {
		return nil
	}
	taken := &Taken{Restarted: r.started && common.Attempt > r.attempt}
	expected := 0
	if r.started && !taken.Restarted {
		expected = r.seq + 1
	}
	taken.Missed = common.Seq - expected
	r.started, r.attempt, r.seq = true, common.Attempt, common.Seq
	if taken.Restarted {
		r.texts, r.Error = nil, nil
	}
	switch e := event.(type) {
	case *TextDelta:
		r.join(e)
	case *ErrorEvent:
		r.Error = &e.Error
	case *MessageEnd:
		r.End = e
	}
	return taken
}

// Answer returns what the turn came to: a *TurnFailed unless it completed. Call it once End is set.
func (r *TurnReader) Answer() (*Answer, error) {
	end := r.End
	text := ""
	if end.Text != nil {
		text = *end.Text
	} else if len(r.texts) > 0 {
		text = r.texts[len(r.texts)-1].text.String()
	}
	if end.StopReason == EndTurn {
		return &Answer{r.TurnID, text, end.Structured, end}, nil
	}
	detail := ErrorDetail{Code: "turn." + end.StopReason, Reason: "unknown", Message: endedWith(end)}
	if r.Error != nil {
		detail = *r.Error
	}
	return nil, &TurnFailed{r.TurnID, detail, text, end}
}

// Texts returns the messages of the last attempt, as far as they have come.
func (r *TurnReader) Texts() []Text {
	texts := make([]Text, len(r.texts))
	for at, joined := range r.texts {
		texts[at] = Text{joined.itemID, joined.text.String()}
	}
	return texts
}

func (r *TurnReader) join(piece *TextDelta) {
	for at := len(r.texts) - 1; at >= 0; at-- { // nearly always the last one
		if r.texts[at].itemID == piece.ItemID {
			r.texts[at].text.WriteString(piece.Text)
			return
		}
	}
	next := &joined{itemID: piece.ItemID}
	next.text.WriteString(piece.Text)
	r.texts = append(r.texts, next)
}

// Any producer can send a turn under our id, for a workspace of its own.
func (r *TurnReader) admits(theirs string) bool {
	switch {
	case theirs == "":
		return true // an older worker's event, or a rejection that has no workspace to name
	case r.workspace == "":
	case !strings.HasPrefix(r.workspace, "/"):
		return r.workspace == theirs
	case !endsWith(r.workspace, theirs):
		return false
	}
	r.workspace = theirs
	return true
}

func endedWith(end *MessageEnd) string {
	if end.SupersededBy != "" {
		return "the turn was interrupted by the turn " + end.SupersededBy
	}
	return "the turn ended with the stop reason " + end.StopReason
}

// Only a worker knows its root, so more can't be said of a path.
func endsWith(path, workspace string) bool {
	var names []string
	for _, name := range strings.Split(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return strings.HasSuffix("/"+strings.Join(names, "/"), "/"+workspace)
}
