"""What training receives, looked at: examples as they are tokenized, and the rows of an optimizer step."""
