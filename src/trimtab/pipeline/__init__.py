"""Stages in order: what is done is skipped, what is left runs."""
