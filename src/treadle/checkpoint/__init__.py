"""7. What survives: save, restore, keep."""
