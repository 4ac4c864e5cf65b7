"""A whole staged training: a plan's stages, trained, grown, verified and evaluated, resumable at any moment."""
