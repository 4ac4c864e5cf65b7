"""The commands below `ckptgrow plan`: curves, law, fit, watch, timing; each in a file of its own."""
