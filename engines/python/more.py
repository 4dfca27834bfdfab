# ruff: noqa: F401
"""What the other zygote imports, that of the actions which need more of the standard library (`language.wants_more`).

To import it takes them some ten milliseconds where that zygote isn't there. What holds for `preload` holds here too.
"""

import argparse
import ast
import asyncio
import calendar
import concurrent.futures.thread
import contextvars
import csv
import dataclasses
import difflib
import email.message
import email.mime.multipart
import email.mime.text
import email.parser
import email.policy
import email.utils
import encodings.idna
import encodings.latin_1
import fractions
import glob
import gzip
import hashlib
import hmac
import html.parser
import http.client
import http.cookies
import importlib.util
import inspect
import ipaddress
import locale
import logging
import mimetypes
import pathlib
import pickle
import pprint
import queue
import secrets
import shutil
import smtplib
import sqlite3
import ssl
import statistics
import subprocess
import tempfile
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import uuid
import xml.etree.ElementTree
import zipfile
import zoneinfo

from engines.python.preload import prepare, work
