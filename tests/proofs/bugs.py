"""placeholder"""

BUGS: dict = {}
