package codexturns

import (
	"encoding/json"
	"time"
)

// Event is one of the types below: *MessageStart, *ThinkingDelta, *ToolUse, *ToolOutput, *ToolResult, *Plan, *UsageUpdate,
// *Notice, *TextDelta, *ErrorEvent, *MessageEnd, *Restarted or *Unknown. docs/EVENTS.md describes their fields.
type Event interface {
	// Common returns the fields that all events have.
	Common() *Envelope
}

// Envelope is what all events have.
type Envelope struct {
	TurnID string `json:"turn_id"`
	// Workspace is the id of the turn's workspace. It is empty on rejections without a valid workspace, and on events of
	// older workers.
	Workspace string `json:"workspace,omitempty"`
	// Attempt counts the starts of the turn; 0 if it was never started.
	Attempt int `json:"attempt"`
	// Seq is 0, 1, 2 … within an attempt.
	Seq  int       `json:"seq"`
	Time time.Time `json:"time"`
	// Raw is the event as it was published, with fields of newer workers.
	Raw json.RawMessage `json:"-"`
}

func (e *Envelope) Common() *Envelope { return e }

// MessageStart is always first.
type MessageStart struct {
	Envelope
	Metadata json.RawMessage `json:"metadata,omitempty"`
	Model    string          `json:"model,omitempty"`
}

// ThinkingDelta is the agent's reasoning, or a part of it: join those of one ItemID.
type ThinkingDelta struct {
	Envelope
	ItemID string `json:"item_id"`
	Text   string `json:"text"`
}

// ToolUse is the start of a tool call.
type ToolUse struct {
	Envelope
	ID    string          `json:"id"`
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input"`
}

// ToolOutput is a part of what a call prints while it runs; ToolResult has all of it.
type ToolOutput struct {
	Envelope
	ToolUseID string `json:"tool_use_id"`
	Text      string `json:"text"`
}

// ToolResult is the result of a tool call.
type ToolResult struct {
	Envelope
	ToolUseID string          `json:"tool_use_id"`
	Name      string          `json:"name"`
	IsError   bool            `json:"is_error"`
	Content   json.RawMessage `json:"content"`
}

// Plan is the agent's to-do list, whole, each time it changes.
type Plan struct {
	Envelope
	Items []PlanItem `json:"items"`
}

type PlanItem struct {
	Text      string `json:"text"`
	Completed bool   `json:"completed"`
}

// UsageUpdate is what the attempt's agents have spent so far. MessageEnd has the total.
type UsageUpdate struct {
	Envelope
	Usage Usage `json:"usage"`
}

// Notice is something worth knowing though the turn goes on.
type Notice struct {
	Envelope
	Code    string `json:"code"`
	Message string `json:"message"`
}

// TextDelta is a message of the agent, or a part of one: join those of one ItemID.
type TextDelta struct {
	Envelope
	ItemID string `json:"item_id"`
	Text   string `json:"text"`
}

// ErrorEvent is why the turn did not complete: at most once, right before MessageEnd.
type ErrorEvent struct {
	Envelope
	Error ErrorDetail `json:"error"`
}

// ErrorDetail has a code and a reason of the tables in docs/EVENTS.md#errors, or newer ones.
type ErrorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Reason  string `json:"reason"`
	// Retryable means that the same turn, sent again under a new id, may succeed.
	Retryable bool `json:"retryable"`
}

// MessageEnd is always last.
type MessageEnd struct {
	Envelope
	StopReason string `json:"stop_reason"`
	// Text is the agent's last message whole; nil if absent.
	Text *string `json:"text,omitempty"`
	// Structured is the answer as JSON if the request had an output schema and the answer is JSON; else nil.
	Structured   json.RawMessage `json:"structured,omitempty"`
	ThreadID     string          `json:"thread_id,omitempty"`
	Model        string          `json:"model,omitempty"`
	DurationMS   int64           `json:"duration_ms"`
	Metadata     json.RawMessage `json:"metadata,omitempty"`
	Usage        *Usage          `json:"usage,omitempty"` // nil if it is unknown
	SupersededBy string          `json:"superseded_by,omitempty"`
}

// The values of MessageEnd.StopReason.
const (
	EndTurn   = "end_turn"
	Failed    = "error"
	Cancelled = "cancelled"
	TimedOut  = "timeout"
)

// Tokens counts tokens. Cached ones are a subset of input, thinking ones of output.
type Tokens struct {
	InputTokens      int64 `json:"input_tokens"`
	CacheReadTokens  int64 `json:"cache_read_tokens"`
	CacheWriteTokens int64 `json:"cache_write_tokens"`
	OutputTokens     int64 `json:"output_tokens"`
	ThinkingTokens   int64 `json:"thinking_tokens"`
}

// Usage is what all agents of a turn spent, in all attempts.
type Usage struct {
	Tokens
	// Agents is the share of its sub-agents; nil if they are not known to have spent any.
	Agents *Tokens `json:"agents,omitempty"`
}

// Restarted is made by the reader when a higher attempt starts, since a worker died: discard the text so far.
type Restarted struct{ Envelope }

// Unknown is an event of a newer worker, of a type or with fields that this version can't decode.
type Unknown struct {
	Envelope
	Type string
}

// eventTypes has a new event of each type, and the fields that it always has besides those of all events.
var eventTypes = map[string]struct {
	make     func() Event
	required []string
}{
	"message_start":  {func() Event { return new(MessageStart) }, nil},
	"thinking_delta": {func() Event { return new(ThinkingDelta) }, []string{"item_id", "text"}},
	"tool_use":       {func() Event { return new(ToolUse) }, []string{"id", "name", "input"}},
	"tool_output":    {func() Event { return new(ToolOutput) }, []string{"tool_use_id", "text"}},
	"tool_result":    {func() Event { return new(ToolResult) }, []string{"tool_use_id", "name", "is_error", "content"}},
	"plan":           {func() Event { return new(Plan) }, []string{"items"}},
	"usage":          {func() Event { return new(UsageUpdate) }, []string{"usage"}},
	"notice":         {func() Event { return new(Notice) }, []string{"code", "message"}},
	"text_delta":     {func() Event { return new(TextDelta) }, []string{"item_id", "text"}},
	"error":          {func() Event { return new(ErrorEvent) }, []string{"error"}},
	"message_end":    {func() Event { return new(MessageEnd) }, []string{"stop_reason", "duration_ms"}},
}

// ParseEvent decodes an event. It returns nil if the body is no event, such as the probes in the event log.
func ParseEvent(body []byte) Event {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return nil
	}
	var kind string
	var common Envelope
	for name, value := range map[string]any{
		"type": &kind, "turn_id": &common.TurnID, "attempt": &common.Attempt, "seq": &common.Seq,
	} {
		if field, ok := fields[name]; !ok || json.Unmarshal(field, value) != nil {
			return nil
		}
	}
	_ = json.Unmarshal(fields["workspace"], &common.Workspace)
	_ = json.Unmarshal(fields["time"], &common.Time)
	common.Raw = body
	known, ok := eventTypes[kind]
	// The end of a turn is its end, regardless of a newer worker's reasons.
	if ok && (kind == "message_end" || hasAll(fields, known.required)) {
		event := known.make()
		err := json.Unmarshal(body, event)
		if end, is := event.(*MessageEnd); is && (err == nil || end.StopReason != "") {
			end.Structured = fields["structured"] // a null is an answer, too
			err = nil
		}
		if err == nil {
			*event.Common() = common
			return event
		}
	}
	return &Unknown{Envelope: common, Type: kind}
}

func hasAll(fields map[string]json.RawMessage, names []string) bool {
	for _, name := range names {
		if _, ok := fields[name]; !ok {
			return false
		}
	}
	return true
}
