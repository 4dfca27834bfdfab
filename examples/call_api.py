"""Calls another service that answers with JSON, and passes on a part of what it says.

A call that fails, or takes too long, is answered with a clear error instead of an exception.
"""

import json
import urllib.error
import urllib.request

TIMEOUT = 10  # seconds: well below the action's own time-out, so that there is time left to answer


def Run(engine):
    url = engine.params.get("url", "https://api.github.com/zen")
    if not url.startswith(("https://", "http://")):
        engine.result.set({"error": "url must begin with https:// or http://"}, status_code=400, content_type="json")
        return

    request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "my-action"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            text = response.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        fail(engine, f"the service answered with status {error.code}")
    except OSError as error:  # refused, no such host, a bad certificate, too late
        fail(engine, f"the service can't be reached: {getattr(error, 'reason', error)}")
    else:
        engine.log.info(f"{len(text)} characters from {url}")
        engine.result.set({"answer": parsed(text)}, content_type="json")


def parsed(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def fail(engine, message):
    engine.log.error(message)
    engine.result.set({"error": message}, status_code=502, content_type="json")
