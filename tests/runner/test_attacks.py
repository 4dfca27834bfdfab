"""What a hostile action tries on the appliance itself and on its neighbours, each named by what must happen."""

import pytest

from tests.appliance import Appliance

CHANNEL = """
import glob, json, os, struct
def send(header, blob=b""):
    # The one pipe that is open for writing beside standard output and error.
    fds = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
    fd = next(fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}") and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe"))
    data = struct.pack("!II", len(header), len(blob)) + header + blob
    while data:
        data = data[os.write(fd, data):]
"""
HEALTHY = "def Run(engine):\n    engine.result.set('still here')\n"


def attack(appliance: Appliance, statement: str) -> tuple[int, str]:
    """Status of the hostile call and outcome of its run."""
    answer = appliance.run(f"{CHANNEL}\ndef Run(engine):\n    {statement}\n", timeout=5)
    return answer.status, appliance.run_of(answer)["extra"]["outcome"]


def is_unhurt(appliance: Appliance) -> bool:
    return appliance.process.poll() is None and appliance.run(HEALTHY).body == b"still here"


@pytest.mark.parametrize("end", ["\\\\u0001", ",", "x="])
def test_a_content_type_that_could_be_read_in_many_ways_is_refused_at_once(appliance: Appliance, end: str) -> None:
    """Such a text of 80 characters kept the whole server busy for years."""
    content_type = "a/b" + "; " * 80 + end
    head = f'{{"type":"result","status_code":200,"content_type":"{content_type}","headers":[]}}'
    assert attack(appliance, f"send({head.encode()!r})".replace("\\\\\\\\", "\\\\")) == (500, "error")
    assert is_unhurt(appliance)


def test_a_content_type_with_a_blank_at_its_end_is_named_to_its_author(appliance: Appliance) -> None:
    """HTTP/1.1 can't send it."""
    answer = appliance.run("def Run(engine):\n    engine.result.set('x', content_type='text/csv; ')\n")
    assert (answer.status, "content_type 'text/csv; '" in answer.json()["message"]) == (500, True)


def test_a_count_that_is_too_long_to_be_shown_is_only_a_count(appliance: Appliance) -> None:
    """It ended the server."""
    flood = "[engine.log.info('x' * 8000) for _ in range(200)]"
    statement = f"""{flood}; send(b'{{"type":"done","dropped":' + b'9' * 4300 + b'}}'); os._exit(0)"""
    assert attack(appliance, statement) == (200, "completed")
    assert is_unhurt(appliance)
