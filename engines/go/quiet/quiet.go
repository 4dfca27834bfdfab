// Package quiet takes what was meant for the runtime out of the environment that the author's program sees.
package quiet

import "os"

func init() {
	os.Unsetenv("GOMEMLIMIT")
}
