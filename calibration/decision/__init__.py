"""Scores of known parts -> the decision threshold, what it promises, and its validation."""
