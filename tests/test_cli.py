"""The program as it is started: its own process, an environment of the test's."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import __version__, admintoken
from tests.appliance import PROGRAM

HANG_GUARD = 60  # seconds; a verb takes less than one
PREFIX = "FLOWS_CODE_ACTIONS_"


def codeactions(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *arguments]
    variables = {PREFIX + name: value for name, value in environ.items()}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=HANG_GUARD, check=False)


def test_the_version_is_printed() -> None:
    assert codeactions("version").stdout == f"codeactions {__version__}\n"


def test_the_version_needs_no_library() -> None:
    heavy = "{'trio', 'msgspec', 'structlog'}"
    program = f"import sys; from appliance.cli import main; main(['version']); print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_GUARD, check=True)
    assert result.stdout.endswith("\nset()\n")


def test_help_lists_the_verbs_of_people_only() -> None:
    text = codeactions("--help").stdout
    assert all(f"    {verb} " in text for verb in ("serve", "run", "doctor", "settings", "token", "version"))
    assert "launch" not in text


@pytest.mark.parametrize("arguments", [(), ("dance",), ("settings", "--format", "xml"), ("run",)])
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    result = codeactions(*arguments)
    assert result.returncode == 2
    assert "usage: codeactions" in result.stderr


@pytest.mark.parametrize("verb", ["settings", "serve", "token"])
def test_a_bad_setting_is_one_line_and_status_2(verb: str, tmp_path: Path) -> None:
    result = codeactions(verb, PORT="x", STATE_DIR=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr == "codeactions: FLOWS_CODE_ACTIONS_PORT: takes a whole number from 0 to 65535; 'x' isn't that\n"


def test_settings_say_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("worker_pool_size = 9\n")
    lines = codeactions("settings", PORT="9000", CONFIG=str(tmp_path / "c.toml")).stdout.splitlines()
    rows = {line.split()[0].removeprefix(PREFIX): line.split()[1:] for line in lines}
    assert rows["PORT"] == ["9000", "environment"]
    assert rows["WORKER_POOL_SIZE"] == ["9", str(tmp_path / "c.toml")]
    assert rows["MAX_BODY_BYTES"] == ["10M", "default"]


def test_settings_mask_secrets() -> None:
    result = codeactions("settings", ADMIN_TOKEN="open-sesame", AUTH_TOKEN="open-sesame")
    assert "open-sesame" not in result.stdout + result.stderr
    assert result.stdout.count("********") == 2


def test_settings_warn_of_an_unknown_variable() -> None:
    result = codeactions("settings", WORKER_POOL_SISE="1")
    assert result.returncode == 0
    assert result.stderr.startswith("codeactions: warning: FLOWS_CODE_ACTIONS_WORKER_POOL_SISE: unknown setting; the nearest is ")


def test_settings_and_token_create_nothing(tmp_path: Path) -> None:
    codeactions("settings", STATE_DIR=str(tmp_path / "state"))
    codeactions("token", STATE_DIR=str(tmp_path / "state"))
    assert not list(tmp_path.iterdir())


def test_a_token_that_is_not_made_yet_is_one_line(tmp_path: Path) -> None:
    result = codeactions("token", STATE_DIR=str(tmp_path))
    assert result.returncode == 1
    assert (
        result.stderr == f"codeactions: there is no admin token yet: it is made at the first start, in {tmp_path}/admin_token\n"
    )


def test_the_token_is_not_printed_to_a_pipe(tmp_path: Path) -> None:
    token = admintoken.ensure(tmp_path, "")
    result = codeactions("token", STATE_DIR=str(tmp_path))
    assert result.returncode == 1
    assert token not in result.stdout + result.stderr
    assert str(tmp_path / "admin_token") in result.stderr


def test_the_token_is_printed_to_a_terminal(tmp_path: Path) -> None:
    token = admintoken.ensure(tmp_path, "")
    ours, terminal = pty.openpty()
    try:
        command = [*PROGRAM, "token"]
        subprocess.run(command, env={PREFIX + "STATE_DIR": str(tmp_path)}, stdout=terminal, timeout=HANG_GUARD, check=True)
        assert os.read(ours, 4096).decode().strip() == token
    finally:
        os.close(ours)
        os.close(terminal)
