"""The demo: the whole argument on a small model of our own, in minutes, without a hub."""
