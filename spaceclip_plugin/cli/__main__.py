"""`python -m spaceclip_plugin.cli`."""

import sys

from spaceclip_plugin.cli import main

sys.exit(main())
