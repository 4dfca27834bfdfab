// Package plain holds a program of the author's own until its run begins.
package plain

import (
	"syscall"

	"codeactions/gate"
)

func init() {
	if _, _, isThere := gate.Wait(); isThere {
		syscall.Close(gate.JobFile)
	}
}
