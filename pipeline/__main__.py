"""`python -m figureground.pipeline VERB ...`: the same as the `figureground` command."""

import sys

from .cli import main

sys.exit(main())
