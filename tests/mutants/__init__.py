"""Small wrong edits of the package, and whether its own tests notice them."""
