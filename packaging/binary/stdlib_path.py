"""Runs in the binary before all else but the bootloader: the standard library is the tree of files that sandboxes use too."""

import sys

sys.path.append(f"{sys._MEIPASS}/python/lib/python{sys.version_info[0]}.{sys.version_info[1]}")  # type: ignore[attr-defined]
