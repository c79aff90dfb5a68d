"""Form: as what a step is made, as it is written, compiled or recorded, and which of these is the fastest."""
