"""The action's source: compiled, given a module of its own, and shown in tracebacks without a file."""

import io
import linecache
import opcode
import sys
from types import CodeType, ModuleType

FILE = "action.py"  # its name in tracebacks
PATH = "/tmp/action.py"  # __file__: no such file exists, but the folder does and is the run's own
MODULE = "action"  # __name__ of a source with Run: a block `if __name__ == "__main__":` is for the author's own machine

_STORE_NAME, _STORE_GLOBAL = (opcode.opmap[name] for name in ("STORE_NAME", "STORE_GLOBAL"))


def remember(source: str) -> None:
    """Lets tracebacks and inspect.getsource find the lines."""
    lines = list(io.StringIO(source, newline=None))
    for name in (FILE, PATH):
        # Without a time of change the entry is never compared with a file.
        linecache.cache[name] = (len(source), None, lines, name)


def defines_run(code: CodeType) -> bool:
    """Whether the source gives the name `Run` a value at its top level, or in a function that declares it global."""
    return _stores_run(code, _STORE_NAME) or _stores_global_run(code)


def _stores_global_run(code: CodeType) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return _stores_run(code, _STORE_GLOBAL) or any(map(_stores_global_run, inner))


def _stores_run(code: CodeType, how: int) -> bool:
    """By the instructions themselves: what `dis` makes of each takes longer than to compile the source did."""
    if "Run" not in code.co_names:
        return False
    wanted = code.co_names.index("Run")
    extension = 0
    instructions = iter(code.co_code)
    for operation, argument in zip(instructions, instructions, strict=True):
        argument |= extension
        if operation == how and argument == wanted:
            return True
        extension = argument << 8 if operation == opcode.EXTENDED_ARG else 0
    return False


def make_module(*, is_action: bool) -> ModuleType:
    """A fresh module, found by its name and as `__main__`, which pickle, dataclasses and type hints look up."""
    module = ModuleType(MODULE if is_action else "__main__")
    module.__file__ = PATH
    sys.modules[module.__name__] = sys.modules["__main__"] = module
    sys.argv[:] = [FILE]
    return module
