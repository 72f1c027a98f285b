"""Operations, clocks and merge rules: pure, no I/O. What the log says and how logs of several machines become one."""
