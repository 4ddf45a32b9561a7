"""The report's page: tables, curves, pictures."""
