"""The formats of the log: segments, checkpoint parts and their envelope. Pure."""
