"""Programs that measure what the docs state: `python -m benchmarks.NAME --help`."""

import sys

from biflow.errors import excepthook

sys.excepthook = excepthook
