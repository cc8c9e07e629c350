"""Torch's launcher of local processes from Python. Only its command line (torchrun) is a documented interface."""

from __future__ import annotations

# What a signal to the launcher raises, and what the failure of a rank does.
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

# The function behind torchrun: a command line would cost another process, and hide which rank failed.
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

__all__ = ["ChildFailedError", "LaunchConfig", "SignalException", "elastic_launch"]
