package engine

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"codeactions/gate"
)

const (
	maxLogCharacters = 8000
	truncated        = " …[truncated]"
	leastLogBytes    = 32   // what an entry counts at least, as the server counts it
	chunkBytes       = 4000 // below PIPE_BUF with what stands before it, so that no other writer's text gets between
)

// mark begins a piece of a log record within standard output; run.py knows it too.
var mark = []byte("\x00\x1bcodeactions\x1b\x00")

var channel struct {
	sync.Mutex
	logged, dropped int
}

var levels = map[string]byte{"debug": 'd', "info": 'i', "error": 'e'}

// sendLog writes a record to standard output: for each piece of the text the mark, the level (0 if more pieces follow), the
// piece's length (u16, big-endian) and the piece.
func sendLog(level, text string) {
	content := []byte(cut(valid(text)))
	channel.Lock()
	defer channel.Unlock()
	size := len(content)
	if size < leastLogBytes {
		size = leastLogBytes
	}
	if channel.dropped > 0 || channel.logged+size > job.header.MaxLogBytes {
		channel.dropped++
		if channel.dropped&(channel.dropped-1) == 0 { // told at 1, 2, 4, 8, …: a run that is killed says no last word
			stdout.Write(piece('n', []byte(strconv.Itoa(channel.dropped))))
		}
		return
	}
	channel.logged += size
	for len(content) > chunkBytes {
		stdout.Write(piece(0, content[:chunkBytes]))
		content = content[chunkBytes:]
	}
	stdout.Write(piece(levels[level], content))
}

// stdout is our own descriptor of it: an action may close os.Stdout, or set another.
var stdout = ownStdout()

func ownStdout() *os.File {
	descriptor, err := syscall.Dup(1)
	if err != nil {
		return os.Stdout
	}
	syscall.CloseOnExec(descriptor)
	return os.NewFile(uintptr(descriptor), "stdout")
}

func piece(level byte, content []byte) []byte {
	var buffer bytes.Buffer
	buffer.Write(mark)
	buffer.WriteByte(level)
	binary.Write(&buffer, binary.BigEndian, uint16(len(content)))
	buffer.Write(content)
	return buffer.Bytes()
}

func cut(text string) string {
	if len(text) <= maxLogCharacters || utf8.RuneCountInString(text) <= maxLogCharacters {
		return text
	}
	keep := maxLogCharacters - utf8.RuneCountInString(truncated)
	for position := range text {
		if keep == 0 {
			return text[:position] + truncated
		}
		keep--
	}
	return text
}

func sendResult(answer answer, value []byte) {
	if limit := job.header.MaxResultBytes; len(value) > limit {
		message := fmt.Sprintf("the result is %d bytes, the limit is %d bytes (MAX_RESULT_BYTES)", len(value), limit)
		fail("output_limit", message, message+lineOfCaller())
	}
	send(map[string]any{
		"type": "result", "status_code": answer.statusCode, "content_type": answer.contentType, "headers": answer.headers,
	}, value)
}

// end and fail don't return; run.py, which reads standard output to its end, then says the last word.
func end() {
	endWith(0, map[string]any{"dropped": channel.dropped})
}

func fail(kind, message, entry string) {
	sendLog("error", entry)
	endWith(1, map[string]any{"kind": kind, "message": oneLine(message), "dropped": channel.dropped})
}

func endWith(status int, last map[string]any) {
	channel.Lock()
	stdout.Write(piece('f', wordOf(last)))
	if status == 0 {
		// run.py ends the run without waiting for us: it comes to that before we have given all our memory back.
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	}
	os.Exit(status)
}

func wordOf(fields map[string]any) []byte {
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return text
}

func oneLine(text string) string {
	line := []rune(strings.Join(strings.Fields(valid(text)), " "))
	if len(line) > 500 {
		return string(line[:499]) + "…"
	}
	return string(line)
}

// lineOfCaller is the line of the author's that led here.
func lineOfCaller() string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	for {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.File, "/action.go") || frame.File == "action.go" {
			return fmt.Sprintf(" (line %d)", frame.Line)
		}
		if !more {
			return ""
		}
	}
}

var sending sync.Mutex

// send writes a frame, under the lock that run.py takes too.
func send(header map[string]any, blob []byte) {
	frame := frameOf(header, blob)
	sending.Lock()
	defer sending.Unlock()
	lock(syscall.F_WRLCK)
	defer lock(syscall.F_UNLCK)
	for len(frame) > 0 {
		written, err := syscall.Write(gate.AnswerFile, frame)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return // the server no longer reads
		}
		frame = frame[written:]
	}
}

func frameOf(header map[string]any, blob []byte) []byte {
	text := wordOf(header)
	frame := make([]byte, 8, 8+len(text)+len(blob))
	binary.BigEndian.PutUint32(frame, uint32(len(text)))
	binary.BigEndian.PutUint32(frame[4:], uint32(len(blob)))
	return append(append(frame, text...), blob...)
}

func lock(kind int16) {
	whole := syscall.Flock_t{Type: kind}
	for syscall.FcntlFlock(gate.AnswerFile, syscall.F_SETLKW, &whole) == syscall.EINTR {
	}
}

func init() {
	for _, fd := range []int{gate.JobFile, gate.AnswerFile} {
		syscall.CloseOnExec(fd)
	}
}
