"""Slow and plain references for the checks of records."""
