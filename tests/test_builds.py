"""Compiled sources, in a real appliance: when they are built, how often, what is kept, and what authors are told."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance import HANG_GUARD, Appliance, at_once, eventually, running
from tests.golang import build_of, compiling, go_program, until_built

QUEUE = 500


def action(text: str) -> str:
    return f'package actions\n\nfunc Run(engine *Engine) {{\n\tengine.Result.Set("{text}")\n}}\n'


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    settings = {"worker_pool_queue_size": QUEUE, "worker_pool_project_queue_size": QUEUE}
    with compiling(tmp_path_factory.mktemp("go") / "state", **settings) as appliance:
        yield appliance


def create(appliance: Appliance, source: str) -> str:
    return appliance.create(source, language="go")


def built_again(appliance: Appliance) -> list[str]:
    """What of its sources was compiled more than once. A build is logged a moment after it can be used."""
    sources = Counter(line["build"] for line in appliance.logged("build ready"))
    return [source for source, count in sources.items() if count > 1]


def test_a_save_builds_in_the_background(appliance: Appliance) -> None:
    code_id = create(appliance, action("background"))
    assert until_built(appliance, code_id) == {"status": "ready", "message": None}
    assert appliance.call(code_id).body == b"background"
    assert not built_again(appliance)


def test_a_changed_source_is_built_anew(appliance: Appliance) -> None:
    code_id = create(appliance, action("old"))
    assert appliance.call(code_id).body == b"old"
    answer = appliance.manage("PATCH", f"/code/{code_id}", action("new").encode()).json()
    assert answer["build"]["status"] in ("pending", "building")
    until_built(appliance, code_id)
    assert appliance.call(code_id).body == b"new"


def test_two_hundred_first_calls_at_once_make_one_build(appliance: Appliance) -> None:
    code_id = create(appliance, action("once"))
    answers = at_once([lambda: appliance.call(code_id)] * 200)
    assert {answer.body for answer in answers} == {b"once"}
    assert not built_again(appliance)


def test_builds_of_one_project_keep_no_other_waiting(appliance: Appliance) -> None:
    greedy = [appliance.create(action(f"greedy {n}"), language="go", project_uuid="greedy") for n in range(8)]
    modest = appliance.create(action("modest"), language="go", project_uuid="modest")
    until_built(appliance, modest)
    assert [build_of(appliance, code_id)["status"] for code_id in greedy][-3:] == ["pending"] * 3
    for code_id in greedy:
        until_built(appliance, code_id)


def test_two_codes_with_one_source_share_the_program(appliance: Appliance) -> None:
    create_and_call = [appliance.call(create(appliance, action("shared"))).body for _ in range(2)]
    assert create_and_call == [b"shared", b"shared"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package actions\n\nfunc Run(engine *Engine) {\n\tx\n}\n", "action.go:4:2: undefined: x"),
        (
            "package actions\n\nfunc Ran() {}\n",
            "action.go: there is no func Run(engine *Engine); a program of its own is package main",
        ),
        (
            "package actions\n\nfunc Run[T any](engine *Engine) {}\n",
            "action.go:3: Run must be func(engine *Engine) or func(engine *Engine) error, without type parameters",
        ),
        (
            "package actions\n\n// a note\n\nvar Run = func(engine *Engine) int { return 1 }\n",
            "action.go:5: Run must be func(engine *Engine) or func(engine *Engine) error, not func(engine *Engine) int",
        ),
        (
            'package actions\n\nimport "internal/abi"\n\nfunc Run(engine *Engine) { _ = abi.FuncPCABI0 }\n',
            "action.go:3:8: use of internal package internal/abi not allowed",
        ),
        (
            'package actions\n\nimport "C"\n\nfunc Run(engine *Engine) {}\n',
            'action.go:3: import "C": C code can\'t be used',
        ),
        (
            "//go:build ignore\n\npackage actions\n\nfunc Run(engine *Engine) {}\n",
            "action.go:1: this host doesn't satisfy the constraint //go:build ignore",
        ),
        ("package other\n", "action.go: the package is other; it must be actions, with func Run(engine *Engine), or main"),
        ("no Go\n", "action.go:1:1: expected 'package', found no"),
        (
            "package actions\n\nfunc Run(engine *Engine) int { return 1 }\n",
            "action.go:3: Run must be func(engine *Engine) or func(engine *Engine) error, not func(engine *Engine) int",
        ),
        (
            "package actions\n\ntype Request int\n\nfunc Run(engine *Engine) {}\n",
            "action.go:3:6: Request redeclared in this block: Request is a name that the engine gives to every action",
        ),
        (
            'package actions\n\nimport _ "example.org/x"\n\nfunc Run(engine *Engine) {}\n',
            "action.go:3:8: no required module provides package example.org/x: only the standard library can be used",
        ),
    ],
)
def test_a_source_that_does_not_compile_is_explained(appliance: Appliance, source: str, message: str) -> None:
    code_id = create(appliance, source)
    answer = appliance.call(code_id)
    assert (answer.status, answer.json()["message"]) == (500, message)
    assert build_of(appliance, code_id) == {"status": "failed", "message": message}
    assert appliance.run_of(answer)["extra"]["outcome"] == "error"
    assert appliance.logs_of(answer) == [("error", message)]


def test_the_language_is_as_new_as_the_toolchain(appliance: Appliance) -> None:
    version = appliance.request("GET", "/health").json()["services"]["engine_go"]["message"]
    major, minor = (int(number) for number in re.findall(r"\d+", version)[:2])
    loop = "\tsum := 0\n\tfor i := range 5 {\n\t\tsum += i\n\t}\n\tengine.Result.Set(sum)\n"
    answer = appliance.call(create(appliance, f"package actions\n\nfunc Run(engine *Engine) {{\n{loop}}}\n"))
    assert answer.body == b"10" if (major, minor) >= (1, 22) else answer.status == 500


def test_all_errors_of_a_source_are_logged(appliance: Appliance) -> None:
    answer = appliance.call(create(appliance, "package actions\n\nfunc Run(engine *Engine) {\n\ta()\n\tb()\n}\n"))
    assert answer.json()["message"] == "action.go:4:2: undefined: a (and 1 more)"
    assert [content for _, content in appliance.logs_of(answer)] == ["action.go:4:2: undefined: a", "action.go:5:2: undefined: b"]


def test_a_program_is_kept_for_its_owner_only(appliance: Appliance) -> None:
    until_built(appliance, create(appliance, action("kept")))
    kept = [path for path in (appliance.state_dir / "builds").iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


def test_a_language_that_is_compiled_says_nothing_of_builds_for_others(appliance: Appliance) -> None:
    assert "build" not in appliance.manage("GET", f"/code/{appliance.create('x = 1')}").json()


def test_the_least_recently_used_go(tmp_path: Path) -> None:
    with compiling(tmp_path / "state", go_cache_bytes=1) as appliance:
        for text in ("first", "second"):
            assert appliance.call(create(appliance, action(text))).body == text.encode()
        eventually(lambda: len([path for path in (tmp_path / "state" / "builds").iterdir() if path.is_file()]) == 1)


def programs_of(appliance: Appliance) -> list[Path]:
    """The files, the one that was made or used last at first."""
    kept = [path for path in (appliance.state_dir / "builds").iterdir() if path.is_file() and path.suffix == ""]
    return sorted(kept, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def test_a_program_that_was_called_again_stays_before_one_that_was_not(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with compiling(state_dir) as appliance:
        often = create(appliance, action("often"))
        assert appliance.call(often).body == b"often"
        [first] = programs_of(appliance)
        assert appliance.call(create(appliance, action("seldom"))).body == b"seldom"
        assert appliance.call(often).body == b"often"
        assert programs_of(appliance)[0] == first
        room_for_two = int(first.stat().st_size * 2.5)
    with running(state_dir, go=go_program(), go_cache_bytes=room_for_two) as appliance:
        seldom = programs_of(appliance)[1]
        assert appliance.call(create(appliance, action("third"))).body == b"third"
        eventually(lambda: not seldom.exists())
        assert first.exists()


def test_a_limit_that_was_lowered_holds_from_the_start(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with compiling(state_dir) as appliance:
        for text in ("first", "second"):
            assert appliance.call(create(appliance, action(text))).body == text.encode()
        [newest, oldest] = programs_of(appliance)
        room_for_one = int(newest.stat().st_size * 1.5)
    with running(state_dir, go=go_program(), go_cache_bytes=room_for_one):
        eventually(lambda: not oldest.exists())
        assert newest.exists()


def test_a_source_that_does_not_compile_is_known_after_a_restart(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    message = "action.go:4:2: undefined: x"
    with compiling(state_dir) as appliance:
        code_id = create(appliance, "package actions\n\nfunc Run(engine *Engine) {\n\tx\n}\n")
        assert until_built(appliance, code_id) == {"status": "failed", "message": message}
    with running(state_dir, go=go_program()) as appliance:
        assert build_of(appliance, code_id) == {"status": "failed", "message": message}
        answer = appliance.call(code_id)
        assert (answer.json(), appliance.logs_of(answer)) == ({"message": message}, [("error", message)])
        assert not appliance.logged("build failed")


def test_a_host_that_no_longer_has_go_says_why_a_code_has_no_program(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with compiling(state_dir) as appliance:
        code_id = create(appliance, action("orphan"))
        until_built(appliance, code_id)
    with running(state_dir) as appliance:
        build = build_of(appliance, code_id)
        assert build["status"] == "failed"
        assert "install Go 1.19 or newer" in build["message"]


def test_what_a_program_logs_is_kept_at_a_timeout_even_if_it_looks_like_a_panic(appliance: Appliance) -> None:
    lines = ["before", "panic: recovered something", *(f"after {number}" for number in range(5))]
    calls = "".join(f'\tlog.Println("{line}")\n' for line in lines)
    head = 'package actions\n\nimport (\n\t"log"\n\t"time"\n)\n\nfunc Run(engine *Engine) {\n\tlog.SetFlags(0)\n'
    code_id = appliance.create(f"{head}{calls}\ttime.Sleep(time.Minute)\n}}\n", language="go", timeout=5)
    answer = appliance.call(code_id)
    assert answer.status == 408
    assert [content for _, content in appliance.logs_of(answer)] == lines


def test_a_build_that_takes_too_long_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "state", go=go_program(), build_timeout="1s") as appliance:
        answer = appliance.call(create(appliance, action("late")))
        assert answer.status == 500
        assert answer.json()["message"] == "the source could not be compiled within 1 s (BUILD_TIMEOUT)"


def test_a_build_without_memory_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "state", go=go_program(), build_memory="32M") as appliance:
        answer = appliance.call(create(appliance, action("big")))
        assert answer.status == 500
        assert answer.json()["message"] == "the source could not be compiled: out of memory: the limit is 32 MiB (BUILD_MEMORY)"


def test_a_run_waits_for_its_build_in_nobodys_way_and_is_cancelled_at_once(tmp_path: Path) -> None:
    """And the build goes on, as soon as the toolchain's cache has what every program needs."""
    with running(tmp_path / "state", go=go_program(), worker_pool_size=1) as appliance:
        code_id = create(appliance, action("slow"))
        answer = appliance.calling(code_id)
        [run] = eventually(lambda: appliance.runs_of(code_id))
        assert run["status"] == "queued"
        assert appliance.run("print('beside it')").body == b"beside it\n"
        assert appliance.manage("POST", f"/coderun/{run['id']}/cancel").status == 202
        assert answer.result(HANG_GUARD).json() == {"message": "the run was cancelled"}
        assert build_of(appliance, code_id)["status"] in ("pending", "building")
        assert until_built(appliance, code_id)["status"] == "ready"
        assert appliance.logged("toolchain cache grows")
        assert not appliance.logged("toolchain cache filled")


def test_a_host_without_go_refuses_its_sources_and_says_what_to_install(tmp_path: Path) -> None:
    with running(tmp_path / "state") as appliance:
        query = "name=a&project_uuid=p&language=go&type=endpoint"
        answer = appliance.manage("POST", f"/code?{query}", action("none").encode())
        assert answer.status == 409
        assert "install Go 1.19 or newer (on Debian: apt install golang-go)" in answer.json()["message"]
        assert appliance.run("print('unhurt')").body == b"unhurt\n"


def test_health_names_the_version(appliance: Appliance) -> None:
    goroot = Path(os.path.realpath(go_program())).parents[1]
    version = (goroot / "VERSION").read_text().split()[0].removeprefix("go")
    assert appliance.request("GET", "/health").json()["services"]["engine_go"]["message"] == version


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_the_examples_in_go_do_what_they_say(appliance: Appliance) -> None:
    hello = create(appliance, (EXAMPLES / "hello.go").read_text())
    assert appliance.call(hello, b"text", name="Ada").json() == {"message": "Hello, Ada!", "received": "text"}
    table = create(appliance, (EXAMPLES / "csv_to_json.go").read_text())
    assert appliance.call(table, b"city,people\nLisbon,545796\n").json() == [{"city": "Lisbon", "people": "545796"}]
    webhook = create(appliance, (EXAMPLES / "webhook.go").read_text())
    assert (appliance.call(webhook, b"{}").status, appliance.call(webhook, b"{}").json()) == (
        401,
        {"error": "the signature is wrong"},
    )


def test_the_action_in_the_documents_works(appliance: Appliance) -> None:
    text = (EXAMPLES.parent / "docs" / "actions.md").read_text()
    source = text.partition("```go\n")[2].partition("```")[0]
    assert appliance.call(create(appliance, source), name="Ada").json() == {"message": "Hello, Ada!"}
