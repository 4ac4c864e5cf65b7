"""The algebra of growth: spaces, layouts, the one gather, null-space terms, layer maps. No model, no file."""
