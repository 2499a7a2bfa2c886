"""What an iteration leaves on disk: one file per table. Records import only each other."""
