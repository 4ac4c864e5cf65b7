"""The commands below `ckptgrow plan`: curves, law, fit, watch; each in a file of its own."""
