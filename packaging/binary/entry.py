"""Where the binary begins: the environment as it was before the bootloader changed it, then `codeactions`.

The bootloader finds the libraries that come along by LD_LIBRARY_PATH, which the dynamic linker has read by now. Programs of the
host that we start (nft, node, systemctl) must not load them: they get the variable as it was, and none of the bootloader's own.
"""

import os
import sys


def restore_environment() -> None:
    before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    os.environ.pop("LD_LIBRARY_PATH", None)
    if before is not None:
        os.environ["LD_LIBRARY_PATH"] = before
    for name in [name for name in os.environ if name.startswith("_PYI_") or name == "_MEIPASS2"]:
        del os.environ[name]


if __name__ == "__main__":
    restore_environment()
    from appliance.cli import main

    sys.exit(main())
