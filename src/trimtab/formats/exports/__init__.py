"""Records as files that other tools read: a function for each shape, one table, one way to write them."""
