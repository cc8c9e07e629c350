"""Settings of the fuzz tests. The short form is the same each time; the long form looks further each time.

NEURALCHAT_FUZZ_FILES=10000 and NEURALCHAT_FUZZ_CHECKPOINTS=1000 set how many cases are tried.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz", deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("fuzz")
