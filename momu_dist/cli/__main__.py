"""`python -m momu_dist.cli` is `momu`."""

from __future__ import annotations

import sys

from momu_dist.cli import main

sys.exit(main())
