// Accepts a web hook only with the right signature over its body.
import { createHmac, timingSafeEqual } from "node:crypto";

const SECRET = "change me: the secret that you gave the sender";

export function Run(engine) {
  const expected = `sha256=${createHmac("sha256", SECRET).update(engine.request.body_bytes).digest("hex")}`;
  if (!isSame(engine.header.get("X-Hub-Signature-256"), expected)) {
    engine.result.set({ error: "bad signature" }, { status_code: 401, content_type: "json" });
    return;
  }
  const { action } = JSON.parse(engine.body);
  engine.log.info(`event: ${action}`);
  engine.result.set({ accepted: true }, { content_type: "json" });
}

function isSame(given, expected) {
  return given.length === expected.length && timingSafeEqual(Buffer.from(given), Buffer.from(expected));
}
