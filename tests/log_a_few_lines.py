"""Run by test_logsetup: logs as the program does, to what the arguments say. Arguments: level, style, the journal's socket."""

import logging
import sys
import warnings

import structlog

from appliance import logsetup

level, style, journal = sys.argv[1:]
logsetup.JOURNAL = journal
logsetup.configure(level, logsetup.style_of(sys.stderr, "") if style == "found" else logsetup.Style(style))
log = structlog.get_logger()
log.debug("parked", sandbox=7)
with structlog.contextvars.bound_contextvars(run_id="r-1", code_id="c-1"):
    log.info("run ended", outcome="completed", wall_ms=3.5, places=("a", "b"))
logging.getLogger("hypercorn.error").warning("slow %s", "client")
warnings.warn("old", DeprecationWarning, stacklevel=1)
try:
    raise ValueError("two\nlines")
except ValueError:
    log.exception("service died")
