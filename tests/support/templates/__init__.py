"""Chat templates for tests."""
