"""Times that the README states, measured again on any machine."""
