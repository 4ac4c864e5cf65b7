"""What each kind of checkpoint is: where its parts lie, read into and written from one `Checkpoint`."""
