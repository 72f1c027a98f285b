"""The operations of the log, stamps, and which machine writes. Pure: no I/O."""
