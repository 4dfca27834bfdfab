"""`python -m appliance` is the program `codeactions`."""

import sys

from appliance.cli import main

sys.exit(main())
