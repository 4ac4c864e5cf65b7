"""`ckptgrow plan curves|law|fit|watch`, one file a command."""
