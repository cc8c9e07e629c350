"""What strangers hand over."""
