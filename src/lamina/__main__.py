"""``python -m lamina`` is ``lamina``."""

import sys

from .cli import main

sys.exit(main())
