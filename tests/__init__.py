"""Tests of tgdav, by area; each runs the real thing."""
