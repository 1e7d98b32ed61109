"""Thousands of good and bad requests against the running service, every answer checked."""
