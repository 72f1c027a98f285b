"""Tools that several test areas share: fault machinery, harnesses, models and generators."""
