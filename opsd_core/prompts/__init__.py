"""What the student sees, and what only the teacher sees."""
