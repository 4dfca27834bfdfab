"""The tests on a real systemd, in a Debian machine of their own with cgroup version 2: `make test-vm-suite`.

The machine is emulated, and some fifteen times slower than this one: what a test measures in time is multiplied. `vm-box` beside
this file makes its image (once, two minutes), boots it, and throws away what was written to it. Needs root, qemu-system-x86 and
debootstrap.
"""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from shutil import copytree, ignore_patterns

from tests.appliance import ROOT

TOOL = Path(__file__).parent / "vm-box"
PATIENCE = 20
SECONDS = 3000
_NOT_NEEDED = ignore_patterns("__pycache__", "mypy*", "uv*", "ruff*", "pip*", "setuptools*", "hypothesis*", "schemathesis*")
SCRIPT = """
set -eu
python3 -m venv --without-pip /opt/venv
printf '/opt/checkout\\n/opt/packages\\n' >"$(echo /opt/venv/lib/python3.*/site-packages)/checkout.pth"
cd /opt/checkout
export CODEACTIONS_TEST_PATIENCE=PATIENCE
exec /opt/venv/bin/python -m pytest -p no:cacheprovider --this-machine --junit-xml=/root/report.xml tests/systemd "$@"
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--cgroup-v1", action="store_true", help="version 1 and an empty version 2 beside it, instead of 2 alone")
    parser.add_argument("arguments", nargs="*", help="pytest's, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        status = run(Path(folder), report, arguments.cgroup_v1, arguments.arguments)
        if report.exists():
            show(report)
    return status


def run(folder: Path, report: Path, cgroup_v1: bool, arguments: list[str]) -> int:
    for package in ("appliance", "engines", "tests", "ui"):
        copytree(ROOT / package, folder / "checkout" / package, ignore=_NOT_NEEDED)
    (folder / "checkout" / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    copytree(sysconfig.get_path("purelib"), folder / "packages", ignore=_NOT_NEEDED)
    script = folder / "script"
    script.write_text(SCRIPT.replace("PATIENCE=PATIENCE", f"PATIENCE={PATIENCE}"))
    command = [TOOL, "--copy-in", f"{folder}/checkout:/opt/checkout", "--copy-in", f"{folder}/packages:/opt/packages"]
    command += ["--copy-out", f"/root/report.xml:{report}", "--timeout", str(SECONDS), "--memory", "3072"]
    command += [*(["--cgroup-v1"] if cgroup_v1 else []), "--shell-script", script, "--", *arguments]
    return subprocess.run(list(map(str, command)), check=False).returncode


def show(report: Path) -> None:
    """A line a test."""
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        print(f"{outcome:8} {float(case.get('time', 0)):7.1f} s  {case.get('name')}")


if __name__ == "__main__":
    sys.exit(main())
