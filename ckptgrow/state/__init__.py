"""A checkpoint, understood: its architecture, whose every tensor and every optimizer's record is."""
