"""What the gate asks for before it decides: answers of both sides, block by block, and what they can show."""
