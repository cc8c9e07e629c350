"""Teachers whose answers are scripted."""
