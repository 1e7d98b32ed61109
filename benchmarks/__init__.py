"""Figures: each file is a command that measures side by side and writes what it found."""
