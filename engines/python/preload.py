# ruff: noqa: F401
"""What a zygote imports before it forks: the engine and the standard library that actions commonly use.

An import here costs its time once, not in every run. Nothing here starts a thread, opens a descriptor or draws a random
number: each of these would be shared by all runs.
"""

import argparse
import ast
import asyncio
import base64
import binascii
import bisect
import calendar
import collections
import collections.abc
import concurrent.futures.thread
import contextlib
import contextvars
import copy
import csv
import dataclasses
import datetime
import decimal
import difflib
import email.message
import email.mime.multipart
import email.mime.text
import email.parser
import email.policy
import email.utils
import encodings.idna
import encodings.latin_1
import enum
import fractions
import functools
import glob
import gzip
import hashlib
import heapq
import hmac
import html.parser
import http.client
import http.cookies
import importlib.util
import inspect
import io
import ipaddress
import itertools
import json
import linecache
import locale
import logging
import math
import mimetypes
import operator
import os
import pathlib
import pickle
import pprint
import queue
import random
import re
import secrets
import shutil
import signal
import site
import smtplib
import socket
import sqlite3
import ssl
import statistics
import string
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import types
import typing
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import uuid
import warnings
import weakref
import xml.etree.ElementTree
import zipfile
import zlib
import zoneinfo

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
