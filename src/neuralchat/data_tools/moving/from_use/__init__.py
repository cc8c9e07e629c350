"""What a bot in use leaves behind -> records."""
