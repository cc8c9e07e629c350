"""`python -m neuralchat` is the command `neuralchat`."""

from __future__ import annotations

import sys

from neuralchat.cli import main

sys.exit(main())
