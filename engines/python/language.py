"""Python: its zygote has imported the engine and the common standard library, and forks a worker for each run."""

from engines.spec import LanguageSpec, Stage

LANGUAGE = LanguageSpec(
    label="Python",
    suffixes=(".py",),
    least_memory_bytes=32 << 20,
    least_tasks=4,
    run=Stage(preload="engines.python.preload"),
)
