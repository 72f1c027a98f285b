"""The local database: SQLite through SQLCipher, its schema, and the one writer with its durability barrier."""
