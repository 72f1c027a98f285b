"""The drive for commands: the same calls on a volume opened here, and through the process that has it open."""
