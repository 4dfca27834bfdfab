"""Calling an action: with what the caller sent, or without input, and its result as an answer."""

from quart.wrappers import Request as HttpRequest

from appliance.api.failures import failed, retry_after
from appliance.api.incoming import action_headers, action_params, read_body
from appliance.api.routes import ANY, Auth, Body, Context, Reply, Route, json
from appliance.api.wire import Message, RunResult, run_out
from appliance.calls import NO_INPUT, Answer, Request, status_of
from appliance.fields import entity_id
from appliance.receipts import WITHOUT_BODY
from appliance.runner.outcome import OutcomeKind, Result

TEXT = "text/plain; charset=UTF-8"
_SHORT = {"json": "application/json; charset=UTF-8", "html": "text/html; charset=UTF-8"}

# What a browser runs script from, beside everything that is XML: our pages have the same origin.
_EXECUTED = frozenset({"text/html", "text/xml", "text/xsl", "application/xml", "multipart/x-mixed-replace"})
_SANDBOX = ("Content-Security-Policy", "sandbox allow-scripts allow-forms allow-popups allow-downloads")
_NOSNIFF = ("X-Content-Type-Options", "nosniff")

# A run that could not start has had no effect, so it may be tried again; the pool needs a moment.
_START_AGAIN_S = 5.0


async def call(context: Context[None]) -> Reply:
    """The action sees the request; the caller sees its result, status and content type."""
    code_id = entity_id("code_id", context.id)
    body = await read_body(context.request, context.options.max_body_bytes)
    answer = await context.services.calls.call(code_id, _seen(context.request, body))
    if answer.outcome.result is None or answer.outcome.kind is not OutcomeKind.COMPLETED:
        return _failure(answer)
    return _result(answer, answer.outcome.result, sandboxed=context.options.html_sandbox)


async def call_without_input(context: Context[None]) -> Reply:
    """The result as text, whatever type or status the action gave it."""
    answer = await _call_without_input(context)
    if answer.outcome.kind is not OutcomeKind.COMPLETED:
        return _failure(answer)
    value = answer.outcome.result.value if answer.outcome.result else b""
    return Reply(content_type=TEXT, body=value, headers=(_NOSNIFF, *_about_run(answer)))


async def run(context: Context[None]) -> Reply:
    answer = await _call_without_input(context)
    if answer.outcome.kind is not OutcomeKind.COMPLETED:
        return _failure(answer)
    result = RunResult(code_id=answer.run.code_id, result=run_out(answer.run))
    return json(result, headers=(_NOSNIFF, *_about_run(answer)))


async def _call_without_input(context: Context[None]) -> Answer:
    """A body is read and dropped, since one over the limit is refused on every route of a call."""
    code_id = entity_id("code_id", context.id)
    await read_body(context.request, context.options.max_body_bytes)
    return await context.services.calls.call(code_id, NO_INPUT)


def _seen(request: HttpRequest, body: bytes) -> Request:
    scope = request.scope
    return Request(
        method=request.method,
        path=request.path,
        params=action_params(scope["query_string"]),
        headers=action_headers(scope["headers"]),
        body=body,
    )


def _about_run(answer: Answer) -> tuple[tuple[str, str], ...]:
    """Which run it was, and where its time went: https://www.w3.org/TR/server-timing/, in milliseconds."""
    usage = answer.outcome.usage
    figures = (("queue", usage.queue_ms), ("run", usage.wall_ms), ("cpu", usage.cpu_ms))
    timing = ", ".join(f"{name};dur={value:.3f}" for name, value in figures if value is not None)
    return (("X-Run-Id", answer.run.id), *([("Server-Timing", timing)] if timing else []))


def _failure(answer: Answer) -> Reply:
    outcome = answer.outcome
    # An interrupted run may have had effects: nothing invites the caller to repeat it.
    again = (retry_after(_START_AGAIN_S),) if outcome.kind is OutcomeKind.COULD_NOT_START else ()
    return failed(status_of(outcome), outcome.message or outcome.kind.value, _NOSNIFF, *_about_run(answer), *again)


def _result(answer: Answer, result: Result, *, sandboxed: bool) -> Reply:
    """The action's own headers as they came, but for those that are ours to say."""
    content_type = _content_type(result)
    kept = tuple(pair for pair in result.headers if pair[0].lower() not in ("content-type", "x-content-type-options", "x-run-id"))
    ours = (_NOSNIFF, *_about_run(answer), *([_SANDBOX] if sandboxed and _is_executed(content_type) else []))
    return Reply(
        status=status_of(answer.outcome),
        content_type=content_type,
        body=b"" if result.status_code in WITHOUT_BODY else result.value,
        headers=(*kept, *ours),
    )


def _content_type(result: Result) -> str:
    """A header that the action set says it more exactly than the call's short name."""
    said = next((value for name, value in reversed(result.headers) if name.lower() == "content-type"), result.content_type)
    return said if "/" in said else _SHORT.get(said, TEXT)


def _is_executed(content_type: str) -> bool:
    """Of a list of types a browser takes the last that it knows, so each counts."""
    types = [one.partition(";")[0].strip().lower() for one in content_type.split(",")]
    return any(one in _EXECUTED or one.endswith("+xml") for one in types)


_FAILURES = dict.fromkeys((400, 404, 408, 413, 429, 500, 503), Message)

ROUTES = (
    Route(
        method=ANY,
        path="/action/endpoint/{code_id}",
        summary="Call an action; it sees query, headers and body, and its result is the answer",
        handler=call,
        auth=Auth.NONE,
        body=Body.FREE,
        answers={200: "*/*", **_FAILURES},
    ),
    Route(
        method=ANY,
        path="/endpoint/{code_id}",
        summary="Call an action without input; its result as text",
        handler=call_without_input,
        auth=Auth.NONE,
        answers={200: "text/plain", **_FAILURES},
    ),
    Route(
        method="POST",
        path="/run/{code_id}",
        summary="Call an action without input; the run that it made",
        handler=run,
        auth=Auth.RUN,
        answers={200: RunResult, **_FAILURES},
    ),
)
