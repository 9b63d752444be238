"""Scores: overlap of masks, and intervals around a mean. Needs no torch."""
