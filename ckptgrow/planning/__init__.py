"""Plans staged training from learning curves or scaling laws: when to grow, where to go on, and what it saves."""
