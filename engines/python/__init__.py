"""The Python engine. A zygote imports `engines.python.preload`; each forked worker calls `run_job` of its `Worker`."""
