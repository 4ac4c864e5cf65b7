"""The commands below `ckptgrow eval`: lambada, wikitext, run, perplexity, compare; each in a file of its own."""
