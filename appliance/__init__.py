"""Flows Code Actions: everything that runs as the server."""

__version__ = "0.1.0"
