"""`codeactions doctor`: tries, in a sandbox made as for any call, what a run must not be able to do."""
