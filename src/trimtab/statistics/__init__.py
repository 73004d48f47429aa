"""Intervals and estimates from counts and samples: numpy and scipy only."""
