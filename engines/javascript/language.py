"""JavaScript, which isn't built into this version yet."""

from engines.spec import Found, Lacking, LanguageSpec, Stage


def find(program: str) -> Found:
    raise Lacking("JavaScript isn't built into this version yet")


LANGUAGE = LanguageSpec(
    label="JavaScript",
    suffixes=(".js", ".mjs"),
    program="node",
    install="JavaScript isn't built into this version yet",
    least_memory_bytes=96 << 20,
    least_tasks=16,
    run=Stage(preload="engines.javascript.preload", find=find),
)
