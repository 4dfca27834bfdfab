"""A log that is full says how much of it is missing, however the run ends; in every language."""

from collections.abc import Iterator

import pytest

from tests.appliance import Appliance
from tests.golang import has_go, with_every_language

GO = """\
package actions

import (
	"os"
	"strings"
	"syscall"
)

var _ = os.Exit
var _ = syscall.Kill

func Run(engine *Engine) {{
	for n := 0; n < 40; n++ {{
		engine.Log.Info(strings.Repeat("x", 1000))
	}}
	{end}
}}
"""
LOGS = {  # forty entries of a thousand bytes, and then an end
    "python": "import os\ndef Run(engine):\n    for n in range(40):\n        engine.log.info('x' * 1000)\n    {end}\n",
    "javascript": "exports.Run = (engine) => {{ for (let n = 0; n < 40; n++) engine.log.info('x'.repeat(1000)); {end} }};\n",
    "go": GO,
}
ENDS = {
    "python": {"return": "return", "kill": "os.kill(os.getpid(), 9)", "exit": "os._exit(0)"},
    "javascript": {"return": "", "kill": "process.kill(process.pid, 9)", "exit": "process.reallyExit(0)"},
    "go": {"return": "", "kill": "syscall.Kill(os.Getpid(), 9)", "exit": "os.Exit(0)"},
}
SAID = "log entries were dropped: a run's log is at most 10000 bytes (MAX_LOG_BYTES)"


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    with with_every_language(tmp_path_factory.mktemp("state"), max_log_bytes=10_000) as running:
        yield running


@pytest.mark.parametrize("end", ["return", "kill", "exit"])
@pytest.mark.parametrize("language", LOGS)
def test_the_last_entry_says_how_many_were_dropped(appliance: Appliance, language: str, end: str) -> None:
    if language == "go" and not has_go():
        pytest.skip("no Go here")
    code_id = appliance.create(LOGS[language].format(end=ENDS[language][end]), language=language)
    entries = appliance.logs_of(appliance.call(code_id))
    assert [content for _, content in entries[:10]] == ["x" * 1000] * 10
    is_told = end == "return" or (language, end) == ("javascript", "exit")  # its engine sees that too
    assert entries[10:] == [("error", f"30 {SAID}" if is_told else f"at least 16 {SAID}")]
