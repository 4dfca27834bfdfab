// Package engine is what an action in Go is given: the request to read, a log to write and a result to set.
//
// The process was started by engines/go/run.py, which stays its parent: it reads what is written to standard output and log
// records (one pipe, so that their order is kept), and tells how a panic or a runtime's fatal error came about. Results and the
// end go to the server directly.
package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"codeactions/gate"
)

// Engine is what Run is given.
type Engine struct {
	Params  Params
	Header  Header
	Body    string
	Log     Log
	Result  Result
	Request Request
}

// Request is the call that is being answered; Path is without the query.
type Request struct {
	Params    Params
	Header    Header
	Body      string
	Log       Log
	Method    string
	Path      string
	BodyBytes []byte
}

// Params has the first value of each query parameter.
type Params struct{ values map[string]string }

// Get returns "" for a parameter that isn't there.
func (params Params) Get(name string) string { return params.values[name] }

// Items returns a copy of all of them.
func (params Params) Items() map[string]string {
	items := make(map[string]string, len(params.values))
	for name, value := range params.values {
		items[name] = value
	}
	return items
}

// Header has the request's headers: names in canonical form (Custom-Header), found by any case, with all their values.
type Header struct{ values map[string][]string }

// Get returns the first value, "" for a header that isn't there.
func (header Header) Get(name string) string {
	if values := header.values[canonical(name)]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// canonical is Custom-Header for any case of it; net/textproto, which has it too, would bring the network's package along.
func canonical(name string) string {
	words := strings.Split(strings.ToLower(name), "-")
	for index, word := range words {
		if word != "" {
			words[index] = strings.ToUpper(word[:1]) + word[1:]
		}
	}
	return strings.Join(words, "-")
}

// Items returns a copy of all of them.
func (header Header) Items() map[string][]string {
	items := make(map[string][]string, len(header.values))
	for name, values := range header.values {
		items[name] = append([]string(nil), values...)
	}
	return items
}

// Log keeps what it is given with the run; what isn't a string is formatted with %v.
type Log struct{}

func (Log) Debug(value any) { logValue("debug", value) }
func (Log) Info(value any)  { logValue("info", value) }
func (Log) Error(value any) { logValue("error", value) }

func logValue(level string, value any) {
	text, isString := value.(string)
	if !isString {
		text = fmt.Sprintf("%v", value)
	}
	sendLog(level, text)
}

// Result is what the caller is answered.
type Result struct{}

// Set answers with value: a string or bytes as they are, anything else as JSON. The last call wins. It panics when an option
// isn't valid.
func (Result) Set(value any, options ...Option) {
	answer := answer{statusCode: 200, contentType: "text"}
	for _, option := range options {
		option(&answer)
	}
	answer.check()
	sendResult(answer, bytesOf(value, isJSON(answer.contentType)))
}

type jobHeader struct {
	SourceBytes    int         `json:"source_bytes"`
	Method         string      `json:"method"`
	Path           string      `json:"path"`
	Params         [][2]string `json:"params"`
	Headers        [][2]string `json:"headers"`
	MaxLogBytes    int         `json:"max_log_bytes"`
	MaxResultBytes int         `json:"max_result_bytes"`
	Limits         struct {
		Tasks int `json:"tasks"`
	} `json:"limits"`
}

var run func(*Engine) error

// Use names the action's Run.
func Use[F func(*Engine) | func(*Engine) error](function F) {
	switch typed := any(function).(type) {
	case func(*Engine):
		run = func(engine *Engine) error { typed(engine); return nil }
	case func(*Engine) error:
		run = typed
	}
}

// Main runs the action; goroutines that still work when Run has returned don't hold the run.
func Main() {
	err := run(newEngine())
	if err != nil {
		kind, message := explain(err)
		fail(kind, message, err.Error())
	}
	end()
}

// explain: a program that could not be started for lack of processes isn't the author's mistake but a limit.
func explain(err error) (kind, message string) {
	var refused *fs.PathError
	if errors.As(err, &refused) && refused.Op == "fork/exec" && errors.Is(refused.Err, syscall.EAGAIN) {
		return "too_many_processes", fmt.Sprintf("too many processes or threads: the limit is %d", job.header.Limits.Tasks)
	}
	return "error", err.Error()
}

func newEngine() *Engine {
	head, body := job.header, job.body
	params := Params{values: map[string]string{}}
	for _, pair := range head.Params {
		if _, isThere := params.values[pair[0]]; !isThere {
			params.values[pair[0]] = pair[1]
		}
	}
	header := Header{values: map[string][]string{}}
	for _, pair := range head.Headers {
		name := canonical(pair[0])
		header.values[name] = append(header.values[name], pair[1])
	}
	text := valid(string(body))
	request := Request{params, header, text, Log{}, head.Method, head.Path, body}
	return &Engine{params, header, text, Log{}, Result{}, request}
}

var job struct {
	header jobHeader
	body   []byte
}

// init reads the job; a program that was started ahead waits in it.
func init() {
	rehearse()
	header, blob, isThere := gate.Wait()
	if !isThere {
		os.Exit(1) // started by something else than run.py
	}
	if err := json.Unmarshal(gate.Read(header), &job.header); err != nil {
		panic(err)
	}
	gate.Read(job.header.SourceBytes)
	job.body = gate.Read(blob - job.header.SourceBytes)
	syscall.Close(gate.JobFile)
}

const sample = `{"method":"GET","path":"/","params":[["a","b"]],"headers":[["a","b"]],"limits":{"tasks":1}}`

// rehearse touches what a job will need, while there is time.
func rehearse() {
	if json.Unmarshal([]byte(sample), &job.header) != nil {
		panic("the sample is no header")
	}
	newEngine()
	frameOf(map[string]any{"status_code": 200, "headers": [][2]string{{"a", "b"}}}, nil)
	piece('f', wordOf(map[string]any{"dropped": 0}))
	job.header = jobHeader{}
}
