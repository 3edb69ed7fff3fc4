"""`python -m agp_edge` is `agp-edge`."""

import sys

from agp_edge.cli import main

if __name__ == "__main__":
    sys.exit(main())
