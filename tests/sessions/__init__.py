"""Session logs, and what is made of them."""
