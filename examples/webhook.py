"""A web hook whose sender signs the body: GitHub's way, HMAC-SHA256 in the header X-Hub-Signature-256."""

import hashlib
import hmac
import json

SECRET = b"change me: the secret that you gave the sender"


def is_signed(body, signature):
    expected = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    # compare_digest takes the same time wherever the two differ; == would tell an attacker how far he got.
    return hmac.compare_digest(expected.encode(), signature.encode())


def Run(engine):
    # The signature is over the bytes as they were sent, so it is checked before anything is decoded.
    body = engine.request.body_bytes
    if not is_signed(body, engine.header.get("X-Hub-Signature-256")):
        engine.log.error("the signature doesn't match")
        engine.result.set({"error": "bad signature"}, status_code=403, content_type="json")
        return

    event = json.loads(body)
    engine.log.info(f"event: {event.get('action', 'none')}")
    engine.result.set({"accepted": True}, status_code=202, content_type="json")
