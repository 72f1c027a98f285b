"""Crash tests: durability and integrity under kills, power cuts, failing disks and stores; and tests of their tools."""
