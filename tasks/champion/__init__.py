"""The champion alias: who moves it, and who is asked first."""
