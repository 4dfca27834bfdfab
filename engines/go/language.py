"""Go, which isn't built into this version yet."""

from engines.spec import Found, Lacking, LanguageSpec, Stage


def find(program: str) -> Found:
    raise Lacking("Go isn't built into this version yet")


LANGUAGE = LanguageSpec(
    label="Go",
    suffixes=(".go",),
    program="go",
    install="Go isn't built into this version yet",
    least_memory_bytes=32 << 20,
    least_tasks=16,
    run=Stage(preload="engines.go.preload", find=find),
)
