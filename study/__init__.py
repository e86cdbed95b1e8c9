"""What a trial is, where it is kept and how it is run. Knows no networks."""
