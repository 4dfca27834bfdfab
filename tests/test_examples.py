"""Each example, run as its author would run it."""

import hashlib
import hmac
import json
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from tests.appliance import PROGRAM

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
HANG_GUARD = 60.0  # seconds; each takes about one
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH: JavaScript is not tried")


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [*PROGRAM, "run", str(EXAMPLES / name), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=HANG_GUARD, check=False)


def result_of(name: str, *arguments: str) -> bytes:
    done = run(name, *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def json_of(name: str, *arguments: str) -> object:
    return json.loads(result_of(name, *arguments))


def signature(body: str) -> str:
    digest = hmac.new(b"change me: the secret that you gave the sender", body.encode(), hashlib.sha256)
    return f"X-Hub-Signature-256: sha256={digest.hexdigest()}"


def test_hello_greets_in_the_language_asked_for() -> None:
    arguments = ("-p", "name=Ada", "-H", "Accept-Language: pt", "-d", "text")
    assert json_of("hello.py", *arguments) == {"message": "Olá, Ada!", "received": "text"}


@needs_node
def test_hello_in_javascript_greets_in_the_language_asked_for() -> None:
    arguments = ("-p", "name=Ada", "-H", "Accept-Language: pt", "-d", "text")
    assert json_of("hello.js", *arguments) == {"message": "Olá, Ada!", "received": "text"}


@needs_node
def test_a_web_hook_in_javascript_is_accepted_only_with_its_signature() -> None:
    body = '{"action":"opened"}'
    assert json_of("webhook.mjs", "-H", signature(body), "-d", body) == {"accepted": True}
    assert json_of("webhook.mjs", "-H", signature("another body"), "-d", body) == {"error": "bad signature"}


@needs_node
def test_a_service_that_cant_be_reached_from_javascript_is_a_clear_error() -> None:
    assert json_of("call_api.js", "-p", "url=http://127.0.0.1:9999/") == {"error": "the service can't be reached: ECONNREFUSED"}
    assert json_of("call_api.js", "-p", "url=file:///etc/passwd") == {"error": "url must begin with https:// or http://"}


def test_hello_logs_three_lines() -> None:
    log = run("hello.py", "-p", "name=Ada").stderr.decode()
    assert all(text in log for text in ("greeting Ada", "language asked for: none", "language used: en"))


def test_a_web_hook_that_is_signed_is_accepted() -> None:
    body = '{"action":"opened"}'
    assert json_of("webhook.py", "-H", signature(body), "-d", body) == {"accepted": True}


@pytest.mark.parametrize("header", ["X-Hub-Signature-256: sha256=00", signature("another body"), "X-Other: 1"])
def test_a_web_hook_with_a_bad_signature_is_refused(header: str) -> None:
    assert json_of("webhook.py", "-H", header, "-d", '{"action":"opened"}') == {"error": "bad signature"}


def test_a_service_that_cant_be_reached_is_a_clear_error() -> None:
    answer = json_of("call_api.py", "-p", "url=http://127.0.0.1:9/")
    assert isinstance(answer, dict)
    assert answer["error"].startswith("the service can't be reached: ")


def test_only_addresses_of_the_web_are_called() -> None:
    assert json_of("call_api.py", "-p", "url=file:///etc/passwd") == {"error": "url must begin with https:// or http://"}


@pytest.mark.parametrize("mark", [",", ";"])
def test_csv_becomes_json(mark: str) -> None:
    body = f'city{mark}people\nLisbon{mark}545796\n"Vila Nova{mark} de Gaia"{mark}303854\n'
    assert json_of("csv_to_json.py", "-d", body) == [
        {"city": "Lisbon", "people": "545796"},
        {"city": f"Vila Nova{mark} de Gaia", "people": "303854"},
    ]


def test_a_page_escapes_what_callers_send() -> None:
    page = result_of("page.py", "-p", "title=<script>").decode()
    assert "<h1>&lt;script&gt;</h1>" in page
    assert "<script>" not in page


def test_an_image_is_a_png_of_the_right_size() -> None:
    image = result_of("image.py", "-p", "percent=75")
    assert image.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\xc8\0\0\0\x14")
    length = int.from_bytes(image[33:37], "big")
    assert len(zlib.decompress(image[41 : 41 + length])) == 20 * (1 + 200 * 3)


def test_an_unknown_link_is_answered_with_the_known_ones() -> None:
    assert result_of("redirect.py", "-p", "to=nowhere").decode().strip() == "known links: docs, status"


def test_a_known_link_has_nothing_to_read() -> None:
    assert result_of("redirect.py", "-p", "to=docs").strip() == b""


def test_a_form_is_thanked_for() -> None:
    answer = result_of("form.py", "-d", "name=Ada&email=ada%40example.org&topic=engines&topic=poetry").decode()
    assert answer.strip() == "Thank you, Ada. Topics: engines, poetry."


def test_a_form_with_mistakes_is_answered_with_them() -> None:
    answer = result_of("form.py", "-d", "name=&email=ada").decode()
    assert answer.split("\n")[:2] == ["name: please fill it in", "email: this isn't an address"]


def test_a_long_calculation_logs_its_progress() -> None:
    done = run("progress.py", "-p", "limit=100000")
    assert json.loads(done.stdout) == {"limit": 100000, "primes": 9592}
    assert all(f"{percent} %" in done.stderr.decode() for percent in range(10, 91, 10))
