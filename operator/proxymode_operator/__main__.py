"""`python -m proxymode_operator`."""

import sys

from proxymode_operator.main import main

if __name__ == "__main__":
    sys.exit(main())
