"""Words that every part may use: when, progress, events, schedules, errors. Standard library only."""
