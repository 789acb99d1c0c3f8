package codexturns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The library against the contract's files, in the folder that the variable CONTRACT names. Needs no broker.

func contract(path string) string {
	folder := os.Getenv("CONTRACT")
	if folder == "" {
		folder = "../../contract"
	}
	return filepath.Join(folder, path)
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(contract("examples/v1/" + pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("found no %s: %v", pattern, err)
	}
	return paths
}

func read(t *testing.T, path string, value any) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if value != nil {
		if err := json.Unmarshal(content, value); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return content
}

type schema struct {
	Properties map[string]struct {
		Const string `json:"const"`
		Ref   string `json:"$ref"`
	} `json:"properties"`
	Required []string          `json:"required"`
	Defs     map[string]schema `json:"$defs"`
}

// tags are the names of a struct's fields in JSON, those of embedded structs included.
func tags(kind reflect.Type) map[string]bool {
	names := map[string]bool{}
	for i := 0; i < kind.NumField(); i++ {
		field := kind.Field(i)
		name := strings.Split(field.Tag.Get("json"), ",")[0]
		switch {
		case field.Anonymous:
			for name := range tags(field.Type) {
				names[name] = true
			}
		case name != "-" && name != "":
			names[name] = true
		}
	}
	return names
}

func assertTags(t *testing.T, kind reflect.Type, schema schema, without ...string) {
	t.Helper()
	expected := map[string]bool{}
	for name := range schema.Properties {
		expected[name] = true
	}
	for _, name := range without {
		delete(expected, name)
	}
	if found := tags(kind); !reflect.DeepEqual(found, expected) {
		t.Errorf("%s has the fields %v, expected %v", kind, found, expected)
	}
}

func TestTypesHaveTheFieldsOfTheSchema(t *testing.T) {
	var events schema
	read(t, contract("event.schema.json"), &events)
	kinds := 0
	envelope := tags(reflect.TypeOf(Envelope{}))
	for _, definition := range events.Defs {
		kind := definition.Properties["type"].Const
		if kind == "" {
			continue
		}
		kinds++
		known, ok := eventTypes[kind]
		if !ok {
			t.Errorf("no type for %s", kind)
			continue
		}
		assertTags(t, reflect.TypeOf(known.make()).Elem(), definition, "type")
		var required []string
		for _, name := range definition.Required {
			if name != "type" && !envelope[name] {
				required = append(required, name)
			}
		}
		expected := append([]string(nil), known.required...)
		sort.Strings(required)
		sort.Strings(expected)
		if !reflect.DeepEqual(required, expected) {
			t.Errorf("%s requires %v, expected %v", kind, expected, required)
		}
	}
	if kinds != len(eventTypes) {
		t.Errorf("found %d types in the schema, expected %d", kinds, len(eventTypes))
	}
	assertTags(t, reflect.TypeOf(Usage{}), events.Defs["Usage"])
	assertTags(t, reflect.TypeOf(ErrorDetail{}), events.Defs["TurnError"])
	assertTags(t, reflect.TypeOf(PlanItem{}), events.Defs["PlanItem"])
	var request schema
	read(t, contract("request.schema.json"), &request)
	assertTags(t, reflect.TypeOf(Request{}), request, "workspace", "messages")
}

func TestEveryExampleOfAnEventIsDecodedWithAllItsFields(t *testing.T) {
	for _, path := range files(t, "events/*.json") {
		var raw map[string]any
		body := read(t, path, &raw)
		event := ParseEvent(body)
		if event == nil {
			t.Errorf("%s is no event", path)
			continue
		}
		if _, isUnknown := event.(*Unknown); isUnknown {
			t.Errorf("%s is of an unknown type", path)
		}
		encoded, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		var again map[string]any
		if err := json.Unmarshal(encoded, &again); err != nil {
			t.Fatal(err)
		}
		again["type"] = raw["type"]
		again["time"] = raw["time"] // the same, without zeros at the end
		if raw["workspace"] == "" {
			delete(raw, "workspace")
		}
		if !reflect.DeepEqual(again, raw) {
			t.Errorf("%s: read %v", path, again)
		}
	}
}

func TestTurnsAreReadAsTheyAreToBeRead(t *testing.T) {
	for _, path := range files(t, "turns/*.jsonl") {
		var expected, found any
		read(t, strings.TrimSuffix(path, ".jsonl")+".read.json", &expected)
		encoded, err := json.Marshal(asRead(t, read(t, path, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(encoded, &found); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(found, expected) {
			t.Errorf("%s: read %v, expected %v", path, found, expected)
		}
	}
}

func asRead(t *testing.T, lines []byte) map[string]any {
	t.Helper()
	reader := NewTurnReader("t-01", "acme/website")
	taken, restarts := []int{}, []int{}
	for number, line := range bytes.Split(bytes.TrimSpace(lines), []byte("\n")) {
		event := ParseEvent(line)
		if event == nil {
			continue
		}
		how := reader.Take(event)
		if how != nil {
			taken = append(taken, number)
		}
		if how != nil && how.Restarted {
			restarts = append(restarts, number)
		}
	}
	end := reader.End
	if end == nil {
		t.Fatal("the turn has no end")
	}
	var failure *ErrorDetail
	var failed *TurnFailed
	if _, err := reader.Answer(); errors.As(err, &failed) && reader.Error != nil {
		failure = &failed.ErrorDetail
	}
	var raw struct {
		Usage any `json:"usage"` // with fields of newer workers
	}
	if err := json.Unmarshal(end.Raw, &raw); err != nil {
		t.Fatal(err)
	}
	return map[string]any{
		"taken": taken, "restarts": restarts, "texts": reader.Texts(), "error": failure,
		"stop_reason": end.StopReason, "text": end.Text, "usage": raw.Usage,
	}
}

func TestWhatIsNoEventIsNilAndWhatIsNewerIsKept(t *testing.T) {
	for _, body := range []string{"{}", "[]", "null", "\xff", `{"turn_id":"t"}`, `{"turn_id":"t","attempt":"1","seq":0,"type":"plan"}`} {
		if event := ParseEvent([]byte(body)); event != nil {
			t.Errorf("%s is %v", body, event)
		}
	}
	newer := ParseEvent([]byte(`{"turn_id":"t","attempt":1,"seq":2,"type":"text_delta","pieces":["a"]}`))
	if unknown, is := newer.(*Unknown); !is || unknown.Type != "text_delta" || unknown.Seq != 2 || unknown.Raw == nil {
		t.Errorf("read %v", newer)
	}
	end := ParseEvent([]byte(`{"turn_id":"t","attempt":1,"seq":2,"type":"message_end","stop_reason":"end_turn","text":["a"]}`))
	if end, is := end.(*MessageEnd); !is || end.StopReason != EndTurn {
		t.Errorf("read %v", end)
	}
}

func TestAPathNamesTheWorkspaceThatItEndsWith(t *testing.T) {
	reader := NewTurnReader("t", "/srv/workspaces/./acme/website/")
	for theirs, isTaken := range map[string]bool{"mallorys": false, "site": false, "acme/website": true} {
		body := fmt.Sprintf(`{"turn_id":"t","workspace":%q,"attempt":1,"seq":0,"type":"message_start"}`, theirs)
		if taken := reader.Take(ParseEvent([]byte(body))); (taken != nil) != isTaken {
			t.Errorf("%s: took %v", theirs, taken)
		}
		if isTaken {
			break
		}
	}
}

func TestARequestHasWhatWasGiven(t *testing.T) {
	request, err := encode("Grüße <&>", "acme/website", &Request{
		TurnID: "t-1", TimeoutS: 60, Metadata: map[string]any{"a": nil},
		Images: []Image{{Path: "shots/now.png"}, {MediaType: "image/png", Data: []byte{1}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	expected := `{"workspace":"acme/website","messages":[{"role":"user","content":[{"text":"Grüße <&>","type":"text"},` +
		`{"source":{"path":"shots/now.png","type":"path"},"type":"image"},` +
		`{"source":{"data":"AQ==","media_type":"image/png","type":"base64"},"type":"image"}]}],` +
		`"turn_id":"t-1","timeout_s":60,"metadata":{"a":null}}`
	if found := strings.TrimSpace(string(request.body)); found != expected {
		t.Errorf("encoded %s", found)
	}
	if NewTurnID() == NewTurnID() || len(NewTurnID()) != 36 {
		t.Error("turn ids are not UUIDs")
	}
}

func TestWhatNoWorkerCanReadIsRefusedAtOnce(t *testing.T) {
	for _, prompt := range []string{"\xff", strings.Repeat("a", MaxBodyBytes)} {
		if _, err := encode(prompt, "w", nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("returned %v", err)
		}
	}
	if _, err := encode("a", "w", &Request{OutputSchema: func() {}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("returned %v", err)
	}
}

func TestFailuresAreTyped(t *testing.T) {
	for _, of := range []struct {
		stopReason string
		attempt    int
		is         error
	}{{Failed, 1, nil}, {Failed, 0, ErrRejected}, {TimedOut, 1, ErrTimedOut}, {Cancelled, 0, ErrCancelled}} {
		end := &MessageEnd{Envelope: Envelope{Attempt: of.attempt}, StopReason: of.stopReason}
		reader := TurnReader{End: end, Error: &ErrorDetail{Code: "a.b", Message: "why", Retryable: true}}
		_, err := reader.Answer()
		var failed *TurnFailed
		if !errors.As(err, &failed) || !failed.Retryable || err.Error() != "a.b: why" {
			t.Errorf("returned %v", err)
		}
		for _, kind := range []error{ErrRejected, ErrTimedOut, ErrCancelled} {
			if errors.Is(err, kind) != (kind == of.is) {
				t.Errorf("%s of attempt %d is %v", of.stopReason, of.attempt, kind)
			}
		}
	}
}

func TestAReplyIsTheEndWithTheErrorInItsHeaders(t *testing.T) {
	body := []byte(`{"turn_id":"t","workspace":"w","attempt":0,"seq":2,"type":"message_end","stop_reason":"error","duration_ms":0}`)
	headers := amqp.Table{
		"x-error-code": "workspace.busy", "x-error-reason": "unknown", "x-error-message": "busy", "x-error-retryable": true,
	}
	_, err := answerOf(&encoded{turnID: "t"}, amqp.Delivery{Body: body, Headers: headers})
	var failed *TurnFailed
	if !errors.As(err, &failed) || failed.ErrorDetail != (ErrorDetail{"workspace.busy", "busy", "unknown", true}) || !errors.Is(err, ErrRejected) {
		t.Errorf("returned %v", err)
	}
	if _, err := answerOf(&encoded{turnID: "other"}, amqp.Delivery{Body: body}); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("returned %v", err)
	}
	if replyPauseAfter(1) != 30*time.Second || replyPauseAfter(2) != time.Minute || replyPauseAfter(100) != 5*time.Minute {
		t.Error("replies are waited for 30 s, doubling to 5 min")
	}
}
