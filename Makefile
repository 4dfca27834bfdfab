# make run   the appliance on 127.0.0.1:8050, everything it keeps under ./var; settings come through the environment
# make test  the whole suite; ARGS are pytest's:  make test ARGS='-k settings -x'
.PHONY: run test test-systemd test-vm test-vm-suite test-binary lint bench lock docs prove test-fresh binary binary-twice

run:
	@packaging/bootstrap.sh program
	@exec .venv/bin/codeactions serve

test:
	@packaging/bootstrap.sh dev
	@packaging/test-parts.sh suite
	@PYTHONHASHSEED=0 .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore=tests/binary $(ARGS)

# The tests on a real systemd, booted as pid 1 over a throw-away copy of this machine's files; a part of `make test`. Needs root, a
# kernel that allows namespaces, and systemd, dbus and iproute2 installed: where one of these is missing they are left out, and say so.
test-systemd:
	@packaging/bootstrap.sh dev
	@.venv/bin/python -m pytest tests/systemd $(ARGS)

# dist/codeactions, the whole program in one file, from the lock of the group `build`; half a minute. It has passed its own test.
binary:
	@packaging/binary.sh

# The tests that go through the program's own door, with the binary in place of the checkout: cases, runs, attacks, verbs, a real systemd.
# tests/binary, about the file itself, is a part of this and not of `make test`.
test-binary: binary
	@packaging/bootstrap.sh dev
	@rm -rf build/unpacked && CODEACTIONS_UNPACK=$$PWD/build/unpacked dist/codeactions version
	@CODEACTIONS_PROGRAM=$$(echo $$PWD/build/unpacked/*/codeactions) .venv/bin/python -m pytest \
	    tests/binary tests/engines tests/runner tests/systemd tests/test_cli.py tests/test_runfile.py tests/test_examples.py tests/test_serve.py $(ARGS)

# Two builds in different places, compared byte by byte.
binary-twice:
	@packaging/binary-twice.sh

# The binary installed in an emulated Debian machine, from outside, with a reboot: cgroup version 2, and once version 1. Prints two tables.
# Needs root; some fifteen minutes.
test-vm: binary
	@packaging/bootstrap.sh dev
	@packaging/test-parts.sh vm
	@.venv/bin/python -m tests.vm.proof
	@.venv/bin/python -m tests.vm.proof --cgroup-v1

# tests/systemd in the emulated machine, for both versions; some twenty minutes.
test-vm-suite:
	@packaging/bootstrap.sh dev
	@packaging/test-parts.sh vm
	@.venv/bin/python -m tests.vm $(ARGS)
	@.venv/bin/python -m tests.vm --cgroup-v1 $(ARGS)

# Lint is first in CI: it fails in seconds.
lint:
	@packaging/bootstrap.sh dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# Latency and throughput of a no-op action over HTTP, next to what a bare Python costs on this machine.
bench:
	@packaging/bootstrap.sh dev
	@.venv/bin/python -m tests.bench $(ARGS)

# Renews the locks; ARGS go to uv:  make lock ARGS=--upgrade
lock:
	@packaging/bootstrap.sh dev
	@packaging/lock.sh $(ARGS)

# Renews docs/settings.md from the definitions in appliance/settings_table.py; a test compares them.
docs:
	@packaging/bootstrap.sh program
	@.venv/bin/codeactions settings --format markdown > docs/settings.md.new && mv docs/settings.md.new docs/settings.md

# Everything that the release must show: lint, the suite, and both commands on a bare Debian.
prove: lint test
	@.venv/bin/python -m tests.prove
	@$(MAKE) --no-print-directory binary-twice test-binary
	@$(MAKE) --no-print-directory test-fresh

# make run, make binary (as root) and make test in a Debian that has only python3, make and git, as root and as an ordinary user.
test-fresh:
	@packaging/test-parts.sh fresh
	@packaging/try-fresh-root.sh $(ARGS)
