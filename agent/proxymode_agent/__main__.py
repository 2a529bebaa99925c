"""`python -m proxymode_agent`: the same as the command `proxymode-agent`."""

import sys

from proxymode_agent.main import main

sys.exit(main())
