"""transformers' models: loading, the packed forward path, scalar heads."""
