"""How agents are wired to a clone: which of their files say so, and how these are changed and put back."""
