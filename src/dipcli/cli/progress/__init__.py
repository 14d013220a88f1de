"""Progress on a terminal, or as plain lines."""
