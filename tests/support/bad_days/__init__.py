"""What happens to a run of days on a real machine, done to small ones."""
