"""What the student sees, and what the teacher sees besides."""
