"""The proof of an installation, step by step, on any host: a box of the suite, or a machine that is emulated (`make test-vm`)."""
