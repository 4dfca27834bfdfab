"""What runs inside the cage's walls: the zygote, the guard (pid 1 of a sandbox) and the worker.

Only the standard library and each other are imported here: inside the sandbox's root this folder is /engine/sandbox.
"""
