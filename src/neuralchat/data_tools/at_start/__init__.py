"""What is looked at in records at the head of a fine-tuning."""
