"""Sources of actions that look at the network, and what they answer."""

import json
from typing import Any

from tests.appliance import Appliance

# Connects to each of `targets`, [address, port] pairs; answers what it read, or the error's name.
CONNECT = """
import errno, json, socket

def reach(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(5)
        try:
            sock.connect((address, port))
            sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return sock.makefile("rb").read().rpartition(b"\\n")[2].decode() or "connected"
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))

def Run(engine):
    engine.result.set([reach(*target) for target in json.loads(engine.body)])
"""


def reach(appliance: Appliance, *targets: tuple[str, int], **query: str) -> Any:
    answer = appliance.run(CONNECT, json.dumps(targets).encode(), **query)
    assert answer.status == 200, answer
    return answer.json()
