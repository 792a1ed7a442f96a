"""Rows of the table of rules, a file for each family: ``ROWS``, the arguments of ``Case`` by name."""
