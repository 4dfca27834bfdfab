"""How much of a list is one page: shared by the backends."""

from collections.abc import Iterator

from appliance.entities import CodeRun
from appliance.storage.interface import PAGE_BYTES, RunPage


def page_of(runs: Iterator[CodeRun], limit: int) -> RunPage:
    """The first of `runs`, which are ordered, and taken from the store one by one."""
    page: list[CodeRun] = []
    size = 0
    for run in runs:
        # Characters, not bytes: they cost one to four each, and the bound is one of memory, not of a format.
        size += len(run.body) + len(run.result)
        if page and (len(page) == limit or size > PAGE_BYTES):
            return RunPage(runs=page, more=True)
        page.append(run)
    return RunPage(runs=page, more=False)
