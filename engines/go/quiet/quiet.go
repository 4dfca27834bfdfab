// Package quiet prepares the runtime for the run's limits, and takes what was meant for it out of the environment that the
// author's program sees.
package quiet

import (
	"os"
	"runtime/debug"
	"strconv"
)

// A stack grows by a copy to one of twice the size. The runtime's own bound, a gigabyte, is beyond most runs' memory: an endless
// recursion would be out of memory instead of what it is.
const stacksShare = 4

func init() {
	if bytes, err := strconv.Atoi(os.Getenv("GOMEMLIMIT")); err == nil {
		debug.SetMaxStack(bytes / stacksShare)
	}
	os.Unsetenv("GOMEMLIMIT")
}
