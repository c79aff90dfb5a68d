"""1. What we asked for: every knob, checked before anything is spent. No torch in here."""
