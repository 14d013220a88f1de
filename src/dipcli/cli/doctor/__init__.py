"""`dip doctor`: facts about a machine, gathered and judged."""
