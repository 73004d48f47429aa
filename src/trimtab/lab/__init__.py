"""Small worlds whose every response can be listed, and what is exactly true in them."""
