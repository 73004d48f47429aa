"""The one door to the database: accounts, projects, items, leases and judgments that are never lost."""
