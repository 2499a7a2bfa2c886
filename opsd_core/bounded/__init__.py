"""What others wrote, run in processes of its own with limits of time and memory.

process           a child that answers requests, and whose end harms nobody
templates         Jinja templates of checkpoints and users, rendered in such a child
template_worker   that child; it imports jinja2 alone
"""
