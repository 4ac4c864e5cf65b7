"""The commands below `ckptgrow plan`: curves, law, fit, watch, timing, show; each in a file of its own."""
