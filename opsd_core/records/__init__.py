"""What an iteration leaves on disk: one file per table. Records know nobody but each other."""
