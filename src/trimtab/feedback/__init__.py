"""People's feedback: what they are asked, what they said, and the store that keeps it."""
