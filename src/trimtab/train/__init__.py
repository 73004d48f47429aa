"""One story per stage, and the plumbing that they call."""
