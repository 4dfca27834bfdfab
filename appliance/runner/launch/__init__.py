"""The launcher: the one process that makes, kills and counts sandboxes. Root where it can be; small, without secrets."""
