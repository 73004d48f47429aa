"""Pages for people: one HTML file each, that opens offline and loads nothing."""
