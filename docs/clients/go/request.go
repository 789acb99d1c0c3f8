package codexturns

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// MaxBodyBytes is the largest request that a worker can be set to accept; by default it is 256 KiB
// (TURN_WORKER_MAX_REQUEST_BYTES).
const MaxBodyBytes = 8 << 20

// Request has the optional fields of a request, see "Requests" in docs/EVENTS.md. Zero values are left out.
type Request struct {
	// TurnID is a new UUID if it is empty. Choose it yourself, and keep it, to be able to send the turn again after a crash
	// of your own: a turn runs once, however often it is sent.
	TurnID          string `json:"turn_id,omitempty"`
	Model           string `json:"model,omitempty"`
	ReasoningEffort string `json:"reasoning_effort,omitempty"` // none, minimal, low, medium, high, xhigh, max, ultra
	ServiceTier     string `json:"service_tier,omitempty"`     // default, flex, priority
	TimeoutS        int    `json:"timeout_s,omitempty"`
	MaxAttempts     int    `json:"max_attempts,omitempty"`
	StartWithinS    int    `json:"start_within_s,omitempty"`
	OnBusy          string `json:"on_busy,omitempty"` // enqueue, reject, interrupt
	Thread          string `json:"thread,omitempty"`  // continue, new, continue_or_new
	// Tenant is the one that the turn runs for, for the operator's metrics and pauses.
	Tenant string `json:"tenant,omitempty"`
	// Metadata comes back on MessageStart and MessageEnd.
	Metadata map[string]any `json:"metadata,omitempty"`
	// OutputSchema is a JSON Schema: anything that encodes as one.
	OutputSchema any    `json:"output_schema,omitempty"`
	EnqueuedAt   string `json:"enqueued_at,omitempty"` // RFC 3339
	TraceParent  string `json:"traceparent,omitempty"`
	TraceState   string `json:"tracestate,omitempty"`

	// Images go with the prompt.
	Images []Image `json:"-"`
	// KeepRunning leaves the turn running when its context ends or its reader leaves, in place of cancelling it.
	KeepRunning bool `json:"-"`
}

// Image is a file in the workspace, or data of a media type: see "Images" in docs/EVENTS.md.
type Image struct {
	Path      string
	MediaType string // image/png, image/jpeg, image/gif or image/webp
	Data      []byte
}

func (i Image) MarshalJSON() ([]byte, error) {
	source := map[string]string{"type": "path", "path": i.Path}
	if i.Path == "" {
		source = map[string]string{
			"type": "base64", "media_type": i.MediaType, "data": base64.StdEncoding.EncodeToString(i.Data),
		}
	}
	return json.Marshal(map[string]any{"type": "image", "source": source})
}

type message struct {
	Role    string `json:"role"`
	Content any    `json:"content"`
}

// encoded is a request as it is sent.
type encoded struct {
	turnID, workspace string
	body              []byte
	// The caller chose the id, so the turn may have been sent before.
	mayBeKnown, keepRunning bool
}

func encode(prompt, workspace string, options *Request) (*encoded, error) {
	var request Request
	if options != nil {
		request = *options
	}
	mayBeKnown := request.TurnID != ""
	if !mayBeKnown {
		request.TurnID = NewTurnID()
	}
	if !utf8.ValidString(prompt) {
		return nil, invalid("the prompt is not UTF-8")
	}
	var content any = prompt
	if len(request.Images) > 0 {
		blocks := []any{map[string]string{"type": "text", "text": prompt}}
		for _, image := range request.Images {
			blocks = append(blocks, image)
		}
		content = blocks
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(struct {
		Workspace string    `json:"workspace"`
		Messages  []message `json:"messages"`
		Request
	}{workspace, []message{{"user", content}}, request})
	if err != nil {
		return nil, &brokerError{[]error{ErrInvalid}, err.Error(), err}
	}
	if body.Len() > MaxBodyBytes {
		return nil, invalid(fmt.Sprintf("the request has %d bytes, expected at most %d", body.Len(), MaxBodyBytes))
	}
	return &encoded{request.TurnID, workspace, body.Bytes(), mayBeKnown, request.KeepRunning}, nil
}

func invalid(message string) error {
	return &brokerError{is: []error{ErrInvalid}, message: message}
}

// NewTurnID returns a random UUID.
func NewTurnID() string {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		panic(err) // the system has no randomness
	}
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
