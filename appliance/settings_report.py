"""The settings for people: what is in force and where it comes from, and the reference in docs/settings.md."""

from dataclasses import Field
from itertools import groupby
from typing import Any

from appliance.settings import Loaded, default_of, variable_of, variables
from appliance.settings_table import Var

MASK = "********"

INTRODUCTION = """\
# Settings

<!-- Generated from appliance/settings_table.py by `make docs`; a test compares them. -->

A setting is taken from the first of these that has it:

1. the environment variable;
2. the file of its name in lower case, without the prefix, in `$CREDENTIALS_DIRECTORY` (systemd's `LoadCredential=`);
3. the TOML file, whose keys are the names in lower case without the prefix, at the top level or in the table named below;
4. the default.

Unset or empty is the default. A value that can't be read, an unknown key in the file, and a setting that needs a part which
isn't built into this version end the start with one line that names them. An unknown `FLOWS_CODE_ACTIONS_…` variable is a
warning. `codeactions settings` prints what is in force, and where each value comes from. Relative paths are taken from the
folder the program is started in.

```toml
log_level = "info"

[runs]
worker_pool_size = 8
memory_limit = "512M"
```
"""


def text(loaded: Loaded) -> str:
    """One line a setting: name, value, source; secrets masked; `-` is unset."""
    rows = [(variable_of(item.name), _shown(loaded, item, var), loaded.sources[item.name]) for item, var in variables()]
    name_width = max(len(name) for name, _, _ in rows)
    value_width = max(len(value) for _, value, _ in rows if len(value) <= 40)
    return "".join(f"{name:{name_width}}  {value:{value_width}}  {source}\n" for name, value, source in rows)


def _shown(loaded: Loaded, item: Field[Any], var: Var) -> str:
    value = getattr(loaded.settings, item.name)
    if value is None or value == "":
        return "-"
    return MASK if var.secret else var.kind.show(value) or "-"


def markdown() -> str:
    return INTRODUCTION + "".join(
        _section(group, list(members)) for group, members in groupby(variables(), lambda pair: pair[1].group)
    )


def commented_toml() -> str:
    """A config.toml in which every setting stands with its default, as a comment."""
    head = (
        "# Settings of Flows Code Actions; `codeactions settings` shows what is in force. Uncomment what you change, then:\n"
        "# systemctl restart codeactions (after HOST or PORT: codeactions install). Secrets are better files of their names in\n"
        "# /etc/codeactions/credentials, which only root can read.\n"
    )
    groups = groupby(variables(), lambda pair: pair[1].group)
    return head + "".join(f"\n[{group}]\n" + "".join(_toml(*member) for member in members) for group, members in groups)


def _toml(item: Field[Any], var: Var) -> str:
    value = default_of(item)
    shown = "" if value is None or var.default_text else var.kind.show(value)
    literal = shown if shown.isdigit() or shown in ("true", "false") else f'"{shown}"'
    usual = f" Default: {var.default_text.replace('`', '')}." if var.default_text else ""
    return f"\n# {_doc(var).replace('`', '')}{usual} Takes {var.kind.takes}.\n#{item.name} = {literal}\n"


def _section(group: str, members: list[tuple[Field[Any], Var]]) -> str:
    head = f"\n## [{group}]\n\n| variable | default | takes | |\n|---|---|---|---|\n"
    return head + "".join(
        f"| {_names(item, var)} | {_default(item, var)} | {var.kind.takes} | {_doc(var)} |\n" for item, var in members
    )


def _names(item: Field[Any], var: Var) -> str:
    also = "".join(f", also `{alias}`" for alias in var.aliases)
    return f"`{variable_of(item.name)}`{also}"


def _default(item: Field[Any], var: Var) -> str:
    if var.default_text:
        return var.default_text
    value = default_of(item)
    shown = "" if value is None else var.kind.show(value)
    return f"`{shown}`" if shown else "–"


def _doc(var: Var) -> str:
    secret = " Secret." if var.secret else ""
    unbuilt = f" Not yet: {var.part} built into this version." if var.part else ""
    return var.doc + secret + unbuilt
