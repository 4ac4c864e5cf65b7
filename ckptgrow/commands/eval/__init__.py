"""`ckptgrow eval lambada|wikitext|run|perplexity|compare`, one file a command."""
