"""When to grow, from where to go on, and what it saves: from learning curves."""
