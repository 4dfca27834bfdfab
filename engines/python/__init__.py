"""The Python engine. A zygote imports `engines.python.preload`; each forked worker calls `engines.python.worker.run_job`."""
