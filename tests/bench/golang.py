"""What a call of a Go action costs: warm, at once after a save, and once it was compiled in the background."""

import time

from tests.appliance import Appliance, cmdline, descendants
from tests.golang import until_built

_HEAD = "package actions\n\n"
_ECHO = """import "encoding/json"

func Run(engine *Engine) error {
	var value any
	if err := json.Unmarshal(engine.Request.BodyBytes, &value); err != nil {
		return err
	}
	engine.Result.Set(value, ContentType("json"))
	return nil
}
"""
_LOGS = """import "strconv"

func Run(engine *Engine) {
	for number := 0; number < 20; number++ {
		engine.Log.Info("line " + strconv.Itoa(number))
	}
}
"""
NO_OP = _HEAD + "func Run(engine *Engine) {}\n"
ECHO = _HEAD + _ECHO
LOGS = _HEAD + _LOGS
SAVES = 20


def first_calls(appliance: Appliance, *, at_once: bool) -> list[float]:
    """Milliseconds from a save (or from the end of its build) to the answer of the first call."""
    times = []
    for number in range(SAVES):
        begun = time.perf_counter()
        code_id = appliance.create(f"{NO_OP}\n// {number} {at_once}\n", language="go")
        if not at_once:
            until_built(appliance, code_id)
            begun = time.perf_counter()
        assert appliance.call(code_id).status == 200
        times.append((time.perf_counter() - begun) * 1000)
    return times


def parked(appliance: Appliance) -> tuple[list[int], list[int]]:
    """The processes of the parked sandboxes, guard and worker each; and of the programs that wait in some of them."""
    zygotes = [pid for pid in descendants(appliance.launcher) if b"engines.go.run" in cmdline(pid)]
    parents = [pid for pid in zygotes if len([other for other in descendants(pid) if other in zygotes]) > 1]
    zygote = max(parents, key=lambda pid: len(descendants(pid)))
    programs = [pid for pid in descendants(zygote) if cmdline(pid) == b"action\0"]
    return [pid for pid in descendants(zygote) if pid not in programs], programs
