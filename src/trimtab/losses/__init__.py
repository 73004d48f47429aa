"""Losses and estimators: pure functions on tensors, in nats, float32 or better."""
