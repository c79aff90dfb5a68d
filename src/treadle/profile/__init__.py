"""Profile: where the time and memory of a program's steps went, and what to change."""
