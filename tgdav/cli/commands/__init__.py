"""The commands, one module for each group of them. A module is imported when one of its commands runs."""
