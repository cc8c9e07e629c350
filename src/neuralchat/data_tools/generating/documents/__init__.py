"""Documents -> the passages that questions are asked about."""
