"""A teacher is asked for tasks and answers; what passes the filters becomes records."""
