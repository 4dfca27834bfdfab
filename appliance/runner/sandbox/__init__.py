"""What runs inside the cage's walls: the zygote, the guard (pid 1 of a sandbox) and the worker.

Only the standard library and each other are imported here: of the program, the sandbox's root has only this folder and the
engines, below /engine, under the names that they have everywhere.
"""
