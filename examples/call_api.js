// Asks another service and passes its answer on, with a time-out and clear errors.
const SECONDS = 10;

async function Run(engine) {
  const url = engine.params.get("url", "");
  const answer = (status_code, value) => engine.result.set(value, { status_code, content_type: "json" });
  if (!/^https?:\/\//.test(url)) return answer(400, { error: "url must begin with https:// or http://" });
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(SECONDS * 1000) });
    if (!response.ok) return answer(502, { error: `the service answered with status ${response.status}` });
    answer(200, { answer: await response.json() });
  } catch (error) {
    engine.log.error(error);
    answer(502, { error: `the service can't be reached: ${error.cause?.code ?? error.message}` });
  }
}
