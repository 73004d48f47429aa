"""Where policies answer the same prompts and are judged."""
