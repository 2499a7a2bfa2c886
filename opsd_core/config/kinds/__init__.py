"""What each kind is: its name, what it means and what it needs. The functions of a kind stand where they are used."""
