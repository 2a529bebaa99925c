"""`python -m proxymode_cli`: the same as the command `kubectl-proxymode`."""

from proxymode_cli.main import main

if __name__ == "__main__":
    main()
