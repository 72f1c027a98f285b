"""What users are promised, shown on the running program with the tools that users have."""
