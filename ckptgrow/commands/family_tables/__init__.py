"""`ckptgrow families`, and the commands below it."""
