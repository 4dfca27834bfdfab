// Package gate prepares the runtime for the run's limits, and holds a program that was started before its job came.
package gate

import (
	"encoding/binary"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
)

// The descriptors that run.py gives: the job, which comes when the run begins, and an action's channel to the server.
const (
	JobFile    = 3
	AnswerFile = 4
)

// A stack grows by a copy to one of twice the size. The runtime's own bound, a gigabyte, is beyond most runs' memory: an endless
// recursion would be out of memory instead of what it is.
const stacksShare = 4

var getsJob bool

func init() {
	if bytes, err := strconv.Atoi(os.Getenv("GOMEMLIMIT")); err == nil {
		debug.SetMaxStack(bytes / stacksShare)
	}
	_, getsJob = os.LookupEnv("CODEACTIONS_JOB")
	// What was meant for us isn't for the author's program, nor for those that it starts.
	os.Unsetenv("GOMEMLIMIT")
	os.Unsetenv("CODEACTIONS_JOB")
}

// Wait returns when the job is there: how many bytes its header and its blob have. Whoever calls it in its init is initialised
// before all that is the author's. A program that the author's has started gets no job.
func Wait() (header, blob int, isThere bool) {
	if !getsJob {
		return 0, 0, false
	}
	sizes := Read(8)
	return int(binary.BigEndian.Uint32(sizes)), int(binary.BigEndian.Uint32(sizes[4:])), true
}

// What was read beyond the bytes that were asked for: an ordinary job comes in one piece.
var (
	buffer [4096]byte
	unread []byte
)

// Read returns the job's next bytes. A job that doesn't come, or not whole, ends the program: its run is over.
func Read(size int) []byte {
	content := make([]byte, size)
	for rest := content; len(rest) > 0; {
		if len(unread) == 0 && len(rest) >= len(buffer) {
			rest = rest[readJob(rest):]
			continue
		}
		if len(unread) == 0 {
			unread = buffer[:readJob(buffer[:])]
		}
		count := copy(rest, unread)
		rest, unread = rest[count:], unread[count:]
	}
	return content
}

func readJob(into []byte) int {
	for {
		count, err := syscall.Read(JobFile, into)
		if count > 0 {
			return count
		}
		if err != syscall.EINTR {
			os.Exit(0)
		}
	}
}
