"""What an example does with the network, against a service of the test's own; tests/test_examples.py has the rest."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from tests.cases import ROOT, CaseRequest
from tests.engines.conftest import Worker

SOURCE = (ROOT / "examples" / "call_api.py").read_text()


class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"temperature": 21}'
        self.send_response(200 if self.path == "/weather" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Not to the test's output."""


@pytest.fixture
def service() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def call(worker: Worker, url: str) -> tuple[int, object]:
    header, body = worker.run(SOURCE, CaseRequest(params=(("url", url),))).result
    return header["status_code"], json.loads(body)


def test_the_answer_of_a_service_is_passed_on(worker: Worker, service: str) -> None:
    assert call(worker, f"{service}/weather") == (200, {"answer": {"temperature": 21}})


def test_a_service_that_answers_with_an_error_is_a_clear_error(worker: Worker, service: str) -> None:
    assert call(worker, f"{service}/nothing") == (502, {"error": "the service answered with status 404"})
