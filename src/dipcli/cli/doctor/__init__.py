"""`dip doctor`: facts about this machine, a probe of each device, and what to put right."""
