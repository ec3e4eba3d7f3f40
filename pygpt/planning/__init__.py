"""What a run takes in memory and time, and what "auto" resolves to."""
