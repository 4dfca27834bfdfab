# ruff: noqa: F401
"""What a zygote imports before it forks: the engine and what most actions need of the standard library.

An import here costs its time once, not in every run, but its memory in every sandbox, and the time to fork that: `more` has
what only some actions need. Nothing here starts a thread, opens a descriptor or draws a random number: each of these would be
shared by all runs.
"""

import base64
import binascii
import bisect
import collections
import collections.abc
import contextlib
import copy
import datetime
import decimal
import enum
import functools
import heapq
import io
import itertools
import json
import linecache
import math
import operator
import os
import random
import re
import signal
import site
import socket
import string
import struct
import sys
import textwrap
import threading
import time
import traceback
import types
import typing
import warnings
import weakref
import zlib

from engines.python.worker import Worker
from engines.spec import Place

# The zygote starts without `site` (-S): no folder decides what is imported. But authors write exit().
site.setquit()

_worker: Worker


def prepare(program: str) -> str:
    global _worker
    _worker = Worker()
    return sys.version.split()[0]


def work(place: Place) -> int:
    return _worker.run_job(place)
